// SPDX-License-Identifier: Apache-2.0
import java.nio.charset.StandardCharsets;
import java.security.GeneralSecurityException;
import java.security.MessageDigest;
import java.security.SecureRandom;
import java.util.Arrays;
import java.util.Base64;
import java.util.HashMap;
import java.util.Map;
import javax.crypto.Mac;
import javax.crypto.SecretKeyFactory;
import javax.crypto.spec.PBEKeySpec;
import javax.crypto.spec.SecretKeySpec;

/** A client's side of one exchange of SCRAM-SHA-256 (RFC 5802, RFC 7677) without channel binding. */
final class Scram {
    static final String METHOD = "SCRAM-SHA-256";

    private final String password;
    private final String nonce;
    private final String first;
    private byte[] expected;

    Scram(String user, String password) {
        byte[] random = new byte[18];
        new SecureRandom().nextBytes(random);
        this.password = password;
        this.nonce = Base64.getEncoder().encodeToString(random);
        this.first = "n=" + user.replace("=", "=3D").replace(",", "=2C") + ",r=" + nonce;
    }

    byte[] begin() {
        return bytes("n,," + first);
    }

    /** The answer to the server's challenge. */
    byte[] prove(byte[] challenge) throws GeneralSecurityException {
        String text = new String(challenge, StandardCharsets.UTF_8);
        Map<String, String> fields = new HashMap<>();
        for (String part : text.split(",")) {
            fields.put(part.substring(0, 1), part.substring(2));
        }
        if (!fields.get("r").startsWith(nonce) || fields.get("r").equals(nonce)) {
            throw new AssertionError("not the answer to this nonce: " + text);
        }
        byte[] salted = SecretKeyFactory.getInstance("PBKDF2WithHmacSHA256").generateSecret(
                new PBEKeySpec(password.toCharArray(), Base64.getDecoder().decode(fields.get("s")),
                        Integer.parseInt(fields.get("i")), 256)).getEncoded();
        String last = "c=biws,r=" + fields.get("r");
        byte[] exchange = bytes(first + "," + text + "," + last);
        byte[] proof = hmac(salted, bytes("Client Key"));
        byte[] signature = hmac(MessageDigest.getInstance("SHA-256").digest(proof), exchange);
        for (int i = 0; i < proof.length; i++) {
            proof[i] ^= signature[i];
        }
        expected = bytes("v=" + Base64.getEncoder().encodeToString(hmac(hmac(salted, bytes("Server Key")), exchange)));
        return bytes(last + ",p=" + Base64.getEncoder().encodeToString(proof));
    }

    /** Whether the server has proved that it knows the password, too. */
    boolean accepts(byte[] proof) {
        return expected != null && Arrays.equals(proof, expected);
    }

    private static byte[] hmac(byte[] key, byte[] text) throws GeneralSecurityException {
        Mac mac = Mac.getInstance("HmacSHA256");
        mac.init(new SecretKeySpec(key, "HmacSHA256"));
        return mac.doFinal(text);
    }

    private static byte[] bytes(String text) {
        return text.getBytes(StandardCharsets.UTF_8);
    }
}
