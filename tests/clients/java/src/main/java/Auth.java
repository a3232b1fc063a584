// SPDX-License-Identifier: Apache-2.0
import com.hivemq.client.mqtt.MqttClient;
import com.hivemq.client.mqtt.datatypes.MqttUtf8String;
import com.hivemq.client.mqtt.mqtt5.Mqtt5AsyncClient;
import com.hivemq.client.mqtt.mqtt5.Mqtt5ClientConfig;
import com.hivemq.client.mqtt.mqtt5.auth.Mqtt5EnhancedAuthMechanism;
import com.hivemq.client.mqtt.mqtt5.exceptions.Mqtt5ConnAckException;
import com.hivemq.client.mqtt.mqtt5.exceptions.Mqtt5DisconnectException;
import com.hivemq.client.mqtt.mqtt5.message.auth.Mqtt5Auth;
import com.hivemq.client.mqtt.mqtt5.message.auth.Mqtt5AuthBuilder;
import com.hivemq.client.mqtt.mqtt5.message.auth.Mqtt5EnhancedAuthBuilder;
import com.hivemq.client.mqtt.mqtt5.message.connect.Mqtt5Connect;
import com.hivemq.client.mqtt.mqtt5.message.connect.connack.Mqtt5ConnAck;
import com.hivemq.client.mqtt.mqtt5.message.disconnect.Mqtt5Disconnect;
import java.nio.ByteBuffer;
import java.security.GeneralSecurityException;
import java.util.concurrent.BlockingQueue;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.ExecutionException;
import java.util.concurrent.LinkedBlockingQueue;
import java.util.concurrent.TimeUnit;

/** Enhanced authentication with HiveMQ's client, as the user of POLYLOG_USER and POLYLOG_PASSWORD: java Auth HOST PORT */
public final class Auth {
    private static final int WAIT_SECONDS = 15;
    private static final String USER = System.getenv("POLYLOG_USER");
    private static final String PASSWORD = System.getenv("POLYLOG_PASSWORD");

    private final String host;
    private final int port;
    private final Tried tried = new Tried();

    private Auth(String host, int port) {
        this.host = host;
        this.port = port;
    }

    /** What the library calls; each exchange begins anew, with the password of the moment. */
    private static final class Mechanism implements Mqtt5EnhancedAuthMechanism {
        private final String method;
        private volatile String password;
        private Scram scram;

        Mechanism(String method, String password) {
            this.method = method;
            this.password = password;
        }

        private static byte[] bytesOf(ByteBuffer buffer) {
            byte[] bytes = new byte[buffer.remaining()];
            buffer.get(bytes);
            return bytes;
        }

        private CompletableFuture<Void> begin(Mqtt5EnhancedAuthBuilder builder) {
            scram = new Scram(USER, password);
            builder.data(scram.begin());
            return CompletableFuture.completedFuture(null);
        }

        private CompletableFuture<Boolean> accepts(ByteBuffer proof) {
            return CompletableFuture.completedFuture(scram.accepts(bytesOf(proof)));
        }

        @Override
        public MqttUtf8String getMethod() {
            return MqttUtf8String.of(method);
        }

        @Override
        public int getTimeout() {
            return WAIT_SECONDS;
        }

        @Override
        public CompletableFuture<Void> onAuth(Mqtt5ClientConfig config, Mqtt5Connect connect,
                Mqtt5EnhancedAuthBuilder builder) {
            return begin(builder);
        }

        @Override
        public CompletableFuture<Void> onReAuth(Mqtt5ClientConfig config, Mqtt5AuthBuilder builder) {
            return begin(builder);
        }

        @Override
        public CompletableFuture<Boolean> onContinue(Mqtt5ClientConfig config, Mqtt5Auth auth, Mqtt5AuthBuilder builder) {
            try {
                builder.data(scram.prove(bytesOf(auth.getData().orElseThrow())));
                return CompletableFuture.completedFuture(true);
            } catch (GeneralSecurityException error) {
                return CompletableFuture.failedFuture(error);
            }
        }

        @Override
        public CompletableFuture<Boolean> onAuthSuccess(Mqtt5ClientConfig config, Mqtt5ConnAck connack) {
            return accepts(connack.getEnhancedAuth().orElseThrow().getData().orElseThrow());
        }

        @Override
        public CompletableFuture<Boolean> onReAuthSuccess(Mqtt5ClientConfig config, Mqtt5Auth auth) {
            return accepts(auth.getData().orElseThrow());
        }

        @Override
        public void onAuthRejected(Mqtt5ClientConfig config, Mqtt5ConnAck connack) {}

        @Override
        public void onReAuthRejected(Mqtt5ClientConfig config, Mqtt5Disconnect disconnect) {}

        @Override
        public void onAuthError(Mqtt5ClientConfig config, Throwable cause) {}

        @Override
        public void onReAuthError(Mqtt5ClientConfig config, Throwable cause) {}
    }

    private void check(String what, Tried.Body body) {
        tried.check("hivemq-mqtt-client v5: " + what, body);
    }

    private static void same(Object got, Object want) {
        if (!got.equals(want)) {
            throw new AssertionError(String.format("got %.90s, want %.90s", got, want));
        }
    }

    private Mqtt5AsyncClient client(BlockingQueue<Integer> ends) {
        return MqttClient.builder().useMqttVersion5().identifier("hivemq-auth").serverHost(host).serverPort(port)
                .addDisconnectedListener(context -> ends.add(context.getCause() instanceof Mqtt5DisconnectException end
                        ? end.getMqttMessage().getReasonCode().getCode() : -1))
                .buildAsync();
    }

    private static void connect(Mqtt5AsyncClient client, Mechanism mechanism) throws Exception {
        Mqtt5Connect connect = Mqtt5Connect.builder().enhancedAuth(mechanism).build();
        client.connect(connect).get(WAIT_SECONDS, TimeUnit.SECONDS);
    }

    /** The reason code of the CONNACK that refuses. */
    private int refusal(Mechanism mechanism) throws Exception {
        try {
            connect(client(new LinkedBlockingQueue<>()), mechanism);
        } catch (ExecutionException refused) {
            if (refused.getCause() instanceof Mqtt5ConnAckException connack) {
                return connack.getMqttMessage().getReasonCode().getCode();
            }
            throw refused;
        }
        throw new AssertionError("accepted");
    }

    private void again() throws Exception {
        BlockingQueue<Integer> ends = new LinkedBlockingQueue<>();
        Mqtt5AsyncClient client = client(ends);
        Mechanism mechanism = new Mechanism(Scram.METHOD, PASSWORD);
        connect(client, mechanism);
        BlockingQueue<String> bodies = new LinkedBlockingQueue<>();
        client.subscribeWith().topicFilter("auth/hivemq").callback(publish -> bodies.add(new String(publish.getPayloadAsBytes())))
                .send().get(WAIT_SECONDS, TimeUnit.SECONDS);
        for (int i = 0; i < 2; i++) {
            CompletableFuture<Void> proved = client.reauth();
            client.publishWith().topic("auth/hivemq").payload(Integer.toString(i).getBytes()).send()
                    .get(WAIT_SECONDS, TimeUnit.SECONDS);
            proved.get(WAIT_SECONDS, TimeUnit.SECONDS);
            same(bodies.poll(WAIT_SECONDS, TimeUnit.SECONDS), Integer.toString(i));
        }
        same(ends.size(), 0);
        mechanism.password = "another one";
        try {
            client.reauth().get(WAIT_SECONDS, TimeUnit.SECONDS);
            throw new AssertionError("accepted");
        } catch (ExecutionException refused) {
            same(ends.poll(WAIT_SECONDS, TimeUnit.SECONDS), 0x87);
        }
    }

    private int run() {
        check("SCRAM-SHA-256: connect, and the gateway proves itself", () -> {
            Mqtt5AsyncClient client = client(new LinkedBlockingQueue<>());
            connect(client, new Mechanism(Scram.METHOD, PASSWORD));
            client.disconnect().get(WAIT_SECONDS, TimeUnit.SECONDS);
        });
        check("SCRAM-SHA-256: a wrong password", () -> same(refusal(new Mechanism(Scram.METHOD, "wrong")), 0x86));
        check("an unknown method", () -> same(refusal(new Mechanism("SCRAM-SHA-1", PASSWORD)), 0x8C));
        check("SCRAM-SHA-256 again, twice, while messages flow; then with a wrong password", this::again);
        return tried.failed();
    }

    public static void main(String[] arguments) {
        System.exit(new Auth(arguments[0], Integer.parseInt(arguments[1])).run() > 0 ? 1 : 0);
    }
}
