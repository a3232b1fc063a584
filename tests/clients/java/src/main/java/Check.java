// SPDX-License-Identifier: Apache-2.0
import java.io.InputStream;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.security.KeyStore;
import java.security.cert.CertificateFactory;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.TimeUnit;
import java.util.function.Supplier;
import java.util.logging.LogManager;
import java.util.stream.IntStream;
import javax.net.ssl.TrustManagerFactory;

/** HiveMQ's client or Eclipse Paho's, MQTT 3.1.1 and 5: java Check hivemq|paho HOST PORT */
public final class Check {
    private static final int ORDERED = 200;
    /** Long enough for a message that must not come to come. */
    private static final int QUIET_MS = 300;

    private final String name;
    private final boolean five;
    private final String base;
    private final Connection subscriber;
    private final Connection publisher;
    private final Supplier<Connection> overTls;
    private final Supplier<Connection> kept;
    private final Tried tried = new Tried();

    private interface Library {
        Connection connection(Connection.Endpoint endpoint, String id);
    }

    private Check(String library, boolean five, Connection.Endpoint plain, Connection.Endpoint tls, Library client) {
        String label = five ? "v5" : "v3.1.1";
        this.name = (library.equals("hivemq") ? "hivemq-mqtt-client " : "paho.java ") + label;
        this.five = five;
        this.base = library + "/" + label;
        this.subscriber = client.connection(plain, library + "-" + label + "-sub");
        this.publisher = client.connection(plain, library + "-" + label + "-pub");
        this.kept = () -> client.connection(plain, library + "-" + label + "-kept");
        this.overTls = () -> client.connection(tls, library + "-" + label + "-tls");
    }

    private void check(String what, Tried.Body body) {
        tried.check(name + ": " + what, body);
    }

    private static void same(Object got, Object want) {
        if (!got.equals(want)) {
            throw new AssertionError(String.format("got %.90s, want %.90s", got, want));
        }
    }

    private static byte[] payload(int size) {
        byte[] bytes = new byte[size];
        for (int i = 0; i < size; i++) {
            bytes[i] = (byte) i;
        }
        return bytes;
    }

    private CompletableFuture<?> send(Connection from, String topic, byte[] body, int qos) {
        return from.publish(new Connection.Message(topic, body, qos, false, Connection.Properties.NONE));
    }

    private void publish(String topic, byte[] body, int qos) throws Exception {
        send(publisher, base + topic, body, qos).get(Connection.WAIT_SECONDS, TimeUnit.SECONDS);
    }

    private void publish(String topic, String body, int qos) throws Exception {
        publish(topic, body.getBytes(StandardCharsets.UTF_8), qos);
    }

    private Connection.Message next() throws Exception {
        Connection.Message message = subscriber.messages.poll(Connection.WAIT_SECONDS, TimeUnit.SECONDS);
        if (message == null) {
            throw new AssertionError("no message within " + Connection.WAIT_SECONDS + " s");
        }
        return message;
    }

    private static String text(Connection.Message message) {
        return new String(message.payload(), StandardCharsets.UTF_8);
    }

    private List<String> take(int count) throws Exception {
        List<String> bodies = new ArrayList<>();
        while (bodies.size() < count) {
            bodies.add(text(next()));
        }
        return bodies;
    }

    private void nothingMore() throws Exception {
        Connection.Message message = subscriber.messages.poll(QUIET_MS, TimeUnit.MILLISECONDS);
        if (message != null) {
            throw new AssertionError("a message too many: " + message.topic());
        }
    }

    private void subscribeWithWildcards() throws Exception {
        Map<String, Integer> filters = new LinkedHashMap<>();
        filters.put(base + "/+/data", 2);
        filters.put(base + "/deep/#", 1);
        same(subscriber.subscribe(filters), List.of(2, 1));
        for (String topic : List.of("deep", "deep/a", "other", "x/y/data", "deep/a/b/c", "x/data")) {
            publish("/" + topic, topic, 1);
        }
        List<String> got = take(4);
        got.sort(null); // order holds per topic
        same(got, List.of("deep", "deep/a", "deep/a/b/c", "x/data"));
        nothingMore();
    }

    /** What comes twice is met by the next check; inOrder, the last of a QoS, looks for more. */
    private void oneMessage(int qos, int size) throws Exception {
        String topic = "/q" + qos + "/data";
        publish(topic, payload(size), qos);
        Connection.Message message = next();
        same(List.of(message.topic(), message.qos(), message.retain()), List.of(base + topic, qos, false));
        if (!Arrays.equals(message.payload(), payload(size))) {
            throw new AssertionError("other " + message.payload().length + " bytes");
        }
    }

    private void inOrder(int qos) throws Exception {
        List<String> numbers = IntStream.range(0, ORDERED).mapToObj(Integer::toString).toList();
        CompletableFuture<?>[] answers = numbers.stream()
                .map(number -> send(publisher, base + "/q" + qos + "/data", number.getBytes(), qos))
                .toArray(CompletableFuture[]::new);
        same(take(ORDERED), numbers);
        CompletableFuture.allOf(answers).get(Connection.WAIT_SECONDS, TimeUnit.SECONDS);
        nothingMore();
    }

    private void properties() throws Exception {
        Connection.Properties sent = new Connection.Properties(true, 60L, "text/plain; charset=utf-8", "answers/here",
                List.of(0, 1, 255), List.of(new Connection.Pair("b", "1"), new Connection.Pair("a", "2"),
                        new Connection.Pair("b", "3"), new Connection.Pair("", "empty name"),
                        new Connection.Pair("ü", "€")));
        byte[] body = "grüße".getBytes(StandardCharsets.UTF_8);
        publisher.publish(new Connection.Message(base + "/p/data", body, 1, false, sent))
                .get(Connection.WAIT_SECONDS, TimeUnit.SECONDS);
        Connection.Properties got = next().properties();
        if (got.expirySeconds() == null || got.expirySeconds() < 1 || got.expirySeconds() > 60) {
            throw new AssertionError("message expiry " + got.expirySeconds());
        }
        same(new Connection.Properties(got.text(), 60L, got.contentType(), got.responseTopic(), got.correlation(),
                got.users()), sent);
    }

    private void share() throws Exception {
        Map<String, Integer> share = Map.of("$share/g/" + base + "/s", 1);
        same(subscriber.subscribe(share), List.of(1));
        same(publisher.subscribe(share), List.of(1));
        for (String body : List.of("x", "y", "z")) {
            publish("/s", body, 1);
        }
        same(take(2), List.of("x", "z"));
        Connection.Message other = publisher.messages.poll(Connection.WAIT_SECONDS, TimeUnit.SECONDS);
        same(other == null ? "nothing" : new String(other.payload(), StandardCharsets.UTF_8), "y");
        same(publisher.unsubscribe(List.copyOf(share.keySet())), five ? List.of(0) : List.of());
        publish("/s", "mine", 1);
        same(take(1), List.of("mine"));
    }

    private void retain(String topic, String body) throws Exception {
        publisher.publish(new Connection.Message(base + topic, body.getBytes(StandardCharsets.UTF_8), 1, true,
                Connection.Properties.NONE)).get(Connection.WAIT_SECONDS, TimeUnit.SECONDS);
    }

    private void retained() throws Exception {
        for (String name : List.of("1", "2", "3")) {
            retain("/keep/" + name, name);
        }
        retain("/keep/3", "");
        same(subscriber.subscribe(Map.of(base + "/keep/+", 1)), List.of(1));
        List<String> got = new ArrayList<>();
        while (got.size() < 2) {
            Connection.Message message = next();
            got.add(text(message) + " " + message.retain());
        }
        got.sort(null);
        same(got, List.of("1 true", "2 true"));
        nothingMore();
    }

    private void resume() throws Exception {
        Connection before = kept.get();
        same(before.connect(true), false);
        same(before.subscribe(Map.of(base + "/missed/#", 2)), List.of(2));
        before.disconnect();
        List<String> numbers = IntStream.range(0, 30).mapToObj(Integer::toString).toList();
        for (String number : numbers) {
            publish("/missed/" + Integer.parseInt(number) % 2, number, 2);
        }
        Connection again = kept.get();
        same(again.connect(true), true);
        List<String> got = new ArrayList<>();
        Connection.Message message;
        while ((message = again.messages.poll(got.size() < 30 ? Connection.WAIT_SECONDS * 1000L : QUIET_MS,
                TimeUnit.MILLISECONDS)) != null) {
            got.add(text(message));
        }
        same(got, numbers);
        again.disconnect();
    }

    private void unsubscribe() throws Exception {
        same(subscriber.unsubscribe(List.of(base + "/+/data", base + "/never")), five ? List.of(0, 0x11) : List.of());
        publish("/x/data", "x", 1);
        publish("/deep/still", "y", 1);
        same(take(1), List.of("y"));
        nothingMore();
    }

    private void tls() throws Exception {
        Connection connection = overTls.get();
        connection.connect();
        same(connection.subscribe(Map.of(base + "/tls", 1)), List.of(1));
        send(connection, base + "/tls", payload(1 << 20), 1).get(Connection.WAIT_SECONDS, TimeUnit.SECONDS);
        Connection.Message message = connection.messages.poll(Connection.WAIT_SECONDS, TimeUnit.SECONDS);
        if (message == null || !Arrays.equals(message.payload(), payload(1 << 20))) {
            throw new AssertionError("not what was sent");
        }
        connection.disconnect();
    }

    private int run() {
        check("connect", () -> {
            subscriber.connect();
            publisher.connect();
        });
        if (tried.failed() > 0) {
            return tried.failed();
        }
        check("subscribe with + and #", this::subscribeWithWildcards);
        for (int each = 0; each <= 2; each++) {
            int qos = each;
            check("QoS " + qos + ", empty", () -> oneMessage(qos, 0));
            check("QoS " + qos + ", 100 B", () -> oneMessage(qos, 100));
            check("QoS " + qos + ", 1 MiB", () -> oneMessage(qos, 1 << 20));
            check("QoS " + qos + ", " + ORDERED + " messages in order, each once", () -> inOrder(qos));
        }
        check("QoS 2 published, QoS 0 granted: delivered with QoS 0", () -> {
            same(subscriber.subscribe(Map.of(base + "/low", 0)), List.of(0));
            publish("/low", "x", 2);
            same(next().qos(), 0);
        });
        if (five) {
            check("properties round trip", this::properties);
        }
        check("$share: its members take turns", this::share);
        check("retained, with a wildcard", this::retained);
        check("a session that goes on: what it missed, in order, each once", this::resume);
        check("unsubscribe", this::unsubscribe);
        check("disconnect", () -> {
            same(List.of(subscriber.isConnected(), publisher.isConnected()), List.of(true, true));
            subscriber.disconnect();
            publisher.disconnect();
        });
        check("TLS: 1 MiB there and back", this::tls);
        return tried.failed();
    }

    private static TrustManagerFactory trust(String file) throws Exception {
        KeyStore store = KeyStore.getInstance(KeyStore.getDefaultType());
        store.load(null);
        try (InputStream in = Files.newInputStream(Path.of(file))) {
            store.setCertificateEntry("gateway", CertificateFactory.getInstance("X.509").generateCertificate(in));
        }
        TrustManagerFactory trust = TrustManagerFactory.getInstance(TrustManagerFactory.getDefaultAlgorithm());
        trust.init(store);
        return trust;
    }

    public static void main(String[] arguments) throws Exception {
        String library = arguments[0];
        Connection.Endpoint plain = new Connection.Endpoint(arguments[1], Integer.parseInt(arguments[2]), null);
        Connection.Endpoint tls = new Connection.Endpoint(arguments[1], Integer.parseInt(System.getenv("MQTTS_PORT")),
                trust(System.getenv("CA_FILE")));
        boolean hivemq = library.equals("hivemq");
        LogManager.getLogManager().reset(); // Paho tells of every packet
        int failed = new Check(library, false, plain, tls, hivemq ? Hivemq3::new : Paho3::new).run();
        failed += new Check(library, true, plain, tls, hivemq ? Hivemq5::new : Paho5::new).run();
        System.exit(failed > 0 ? 1 : 0);
    }
}
