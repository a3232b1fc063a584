// SPDX-License-Identifier: Apache-2.0
import jakarta.jms.BytesMessage;
import jakarta.jms.Connection;
import jakarta.jms.JMSException;
import jakarta.jms.JMSSecurityException;
import jakarta.jms.Queue;
import jakarta.jms.Session;
import java.io.InputStream;
import java.nio.file.Files;
import java.nio.file.Path;
import java.security.KeyStore;
import java.security.cert.CertificateFactory;
import javax.net.ssl.KeyManagerFactory;
import javax.net.ssl.SSLContext;
import javax.net.ssl.TrustManagerFactory;
import org.apache.qpid.jms.JmsConnectionFactory;

/**
 * How Apache Qpid JMS comes in, over TCP, TLS and WebSocket: java Logins HOST PORT, with the user of POLYLOG_USER and
 * POLYLOG_PASSWORD, AMQPS_PORT, HTTPS_PORT, CA_FILE, CLIENT_STORE (the certificate of CN=device7, PKCS 12) and
 * NOBODY_STORE (likewise of CN=nobody, who is no user).
 */
public final class Logins {
    private static final long WAIT_MS = 15000;
    private static final String USER = System.getenv("POLYLOG_USER");
    private static final String PASSWORD = System.getenv("POLYLOG_PASSWORD");

    private final String tcp, tls, webSocket;
    private final Tried tried = new Tried();

    private Logins(String host, int port) {
        tcp = String.format("amqp://%s:%d", host, port);
        tls = String.format("amqps://%s:%s", host, System.getenv("AMQPS_PORT"));
        webSocket = String.format("amqpwss://%s:%s", host, System.getenv("HTTPS_PORT"));
    }

    private static InputStream file(String variable) throws Exception {
        return Files.newInputStream(Path.of(System.getenv(variable)));
    }

    /** Trusts the gateway's certificate only, and shows that of the store that the variable names, or none. */
    private static SSLContext context(String shows) throws Exception {
        KeyStore trusted = KeyStore.getInstance("PKCS12"), own = KeyStore.getInstance("PKCS12");
        trusted.load(null, null);
        try (InputStream pem = file("CA_FILE")) {
            trusted.setCertificateEntry("gateway", CertificateFactory.getInstance("X.509").generateCertificate(pem));
        }
        TrustManagerFactory trust = TrustManagerFactory.getInstance(TrustManagerFactory.getDefaultAlgorithm());
        trust.init(trusted);
        KeyManagerFactory keys = KeyManagerFactory.getInstance(KeyManagerFactory.getDefaultAlgorithm());
        try (InputStream store = shows == null ? null : file(shows)) {
            own.load(store, "secret".toCharArray());
        }
        keys.init(own, "secret".toCharArray());
        SSLContext context = SSLContext.getInstance("TLS");
        context.init(shows == null ? null : keys.getKeyManagers(), trust.getTrustManagers(), null);
        return context;
    }

    /** mechanism null: the client's own choice. */
    private static Connection come(String address, String mechanism, String password, String shows) throws Exception {
        JmsConnectionFactory factory = new JmsConnectionFactory(address + "?jms.connectTimeout=" + WAIT_MS
                + (mechanism == null ? "" : "&amqp.saslMechanisms=" + mechanism));
        if (!address.startsWith("amqp:")) {
            factory.setSslContext(context(shows));
        }
        return password == null ? factory.createConnection() : factory.createConnection(USER, password);
    }

    /** So many bytes go to a queue and come back. */
    private static void works(String address, String mechanism, String password, String shows, int size) throws Exception {
        try (Connection connection = come(address, mechanism, password, shows)) {
            connection.start();
            Session session = connection.createSession(Session.AUTO_ACKNOWLEDGE);
            Queue queue = session.createQueue("logins");
            BytesMessage sent = session.createBytesMessage();
            byte[] bytes = new byte[size];
            for (int i = 0; i < size; i++) {
                bytes[i] = (byte) (i * 7);
            }
            sent.writeBytes(bytes);
            session.createProducer(queue).send(sent);
            BytesMessage came = (BytesMessage) session.createConsumer(queue).receive(WAIT_MS);
            byte[] got = new byte[(int) came.getBodyLength()];
            came.readBytes(got);
            if (!java.util.Arrays.equals(got, bytes)) {
                throw new AssertionError("other bytes came back");
            }
        }
    }

    private static void refused(String address, String mechanism, String password) throws Exception {
        try (Connection connection = come(address, mechanism, password, null)) {
            connection.start();
        } catch (JMSSecurityException wanted) {
            return;
        } catch (JMSException other) {
            throw new AssertionError("not as a matter of security", other);
        }
        throw new AssertionError("let in");
    }

    private void check(String what, Tried.Body body) {
        tried.check("qpid-jms: " + what, body);
    }

    private void run() {
        for (String mechanism : new String[] {"PLAIN", "SCRAM-SHA-256"}) {
            check(mechanism, () -> works(tcp, mechanism, PASSWORD, null, 100));
            check(mechanism + " over TLS, 1 MiB", () -> works(tls, mechanism, PASSWORD, null, 1 << 20));
            check(mechanism + " over WebSocket and TLS, 1 MiB", () -> works(webSocket, mechanism, PASSWORD, null, 1 << 20));
            check(mechanism + ": a wrong password", () -> refused(tls, mechanism, "wrong"));
        }
        check("EXTERNAL: the certificate is the user", () -> works(tls, "EXTERNAL", null, "CLIENT_STORE", 100));
        check("a password, and the certificate of nobody", () -> works(tls, null, PASSWORD, "NOBODY_STORE", 100));
        check("EXTERNAL without a certificate", () -> refused(tls, "EXTERNAL", null));
        check("ANONYMOUS, where there are users", () -> refused(tls, "ANONYMOUS", null));
        tried.exit();
    }

    public static void main(String[] arguments) {
        new Logins(arguments[0], Integer.parseInt(arguments[1])).run();
    }
}
