// SPDX-License-Identifier: Apache-2.0
import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.concurrent.BlockingQueue;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.ConcurrentHashMap;
import java.util.concurrent.LinkedBlockingQueue;
import java.util.concurrent.TimeUnit;
import java.util.function.Function;
import java.util.logging.LogManager;
import java.util.stream.IntStream;

/**
 * What MQTT 5 says about a connection, with HiveMQ's client or Eclipse Paho's, on a gateway with mqtt.keep_alive_max = 7
 * and mqtt.receive_max = 20: java Five hivemq|paho HOST PORT
 */
public final class Five {
    static final int WAIT_SECONDS = 15;
    /** Long enough for a message that must not come to come. */
    private static final int QUIET_MS = 300;
    private static final int MANY = 200;

    private final String name;
    private final String host;
    private final int port;
    private final Function<Options, Client> library;
    private final Tried tried = new Tried();

    /** id: empty for one that the gateway makes. receiveMax, aliasMax: 0 for the library's own. */
    record Options(String host, int port, String id, int receiveMax, int aliasMax, long sessionSeconds, Will will) {}

    record Will(String topic, String body, int qos, long delaySeconds, String user) {}

    record Accepted(String assignedId, int keepAliveSeconds) {}

    /** The reason and its words of an answer. */
    record Answer(int reason, String words) {}

    /** Not acknowledged before acknowledge runs. user: the value of the first user property. */
    record Delivery(String topic, String body, String user, Runnable acknowledge) {}

    abstract static class Client {
        final BlockingQueue<Delivery> deliveries = new LinkedBlockingQueue<>();

        /** Bodies that are given back for 700 ms with their next PUBACK, of a library that setsReasons. */
        final Set<String> givenBack = ConcurrentHashMap.newKeySet();

        boolean setsReasons() {
            return false;
        }

        /** The highest QoS of which it hands refusals on, and whose answers wait for acknowledge. */
        abstract int qosMax();

        /** Whether it knows topics by the aliases that the gateway sets. */
        abstract boolean takesAliases();

        abstract Accepted connect() throws Exception;

        abstract void subscribe(String filter, int qos) throws Exception;

        abstract CompletableFuture<Answer> publish(String topic, String body, int qos) throws Exception;

        abstract void disconnect() throws Exception;
    }

    private Five(String name, String host, int port, Function<Options, Client> library) {
        this.name = name;
        this.host = host;
        this.port = port;
        this.library = library;
    }

    private void check(String what, Tried.Body body) {
        tried.check(name + ": " + what, body);
    }

    private static void same(Object got, Object want) {
        if (!want.equals(got)) {
            throw new AssertionError(String.format("got %.90s, want %.90s", got, want));
        }
    }

    private static void isTrue(boolean fact, String what) {
        if (!fact) {
            throw new AssertionError(what);
        }
    }

    private Client client(String id) {
        return library.apply(new Options(host, port, id, 0, 0, 0, null));
    }

    private static Delivery next(Client client) throws Exception {
        Delivery delivery = client.deliveries.poll(WAIT_SECONDS, TimeUnit.SECONDS);
        isTrue(delivery != null, "no message within " + WAIT_SECONDS + " s");
        return delivery;
    }

    private static void nothingMore(Client client) throws Exception {
        isTrue(client.deliveries.poll(QUIET_MS, TimeUnit.MILLISECONDS) == null, "a message too many");
    }

    private void accepted() throws Exception {
        Client one = client("");
        Client other = client("");
        Accepted first = one.connect();
        Accepted second = other.connect();
        same(first.keepAliveSeconds(), 7);
        isTrue(!first.assignedId().isEmpty() && !first.assignedId().equals(second.assignedId()), first.assignedId());
        one.disconnect();
        other.disconnect();
    }

    private void reasons() throws Exception {
        Client client = client("reasons");
        client.connect();
        for (int qos = 1; qos <= client.qosMax(); qos++) {
            for (var each : Map.of("$queue/none", 0x90, "$SYS/broker/version", 0x87).entrySet()) {
                Answer answer = client.publish(each.getKey(), "x", qos).get(WAIT_SECONDS, TimeUnit.SECONDS);
                same(answer.reason(), each.getValue());
                isTrue(answer.words() != null && !answer.words().isEmpty(), "no words");
            }
            same(client.publish("fine", "x", qos).get(WAIT_SECONDS, TimeUnit.SECONDS).reason() & 0x80, 0);
        }
        client.disconnect();
    }

    private void wills() throws Exception {
        Client reader = client("wills");
        reader.connect();
        reader.subscribe("wills/#", 1);
        try (Relay relay = new Relay(host, port)) {
            for (long delay = 0; delay <= 1; delay++) {
                Options options = new Options(host, relay.port(), "leaving", 0, 0, 100,
                        new Will("wills/x", "gone " + delay, 1, delay, "in a hurry"));
                Client leaving = library.apply(options);
                leaving.connect();
                leaving.disconnect(); // on purpose: no will
                nothingMore(reader);
                library.apply(options).connect();
                long began = System.nanoTime();
                relay.cut();
                Delivery will = next(reader);
                isTrue(System.nanoTime() - began >= delay * 1_000_000_000L, "too early");
                same(List.of(will.body(), will.user()), List.of("gone " + delay, "in a hurry"));
                will.acknowledge().run();
            }
            Client back = library.apply(new Options(host, relay.port(), "leaving", 0, 0, 100,
                    new Will("wills/x", "never", 1, 2, "in a hurry")));
            back.connect();
            relay.cut();
            back = library.apply(new Options(host, port, "leaving", 0, 0, 0, null));
            back.connect(); // within the delay: the will is taken back
            Thread.sleep(2200);
            back.disconnect();
            nothingMore(reader);
        }
        reader.disconnect();
    }

    /** A name of a topic that goes over the connection each time would be most of its bytes. */
    private void aliases() throws Exception {
        String topic = "aliases/" + "x".repeat(1000);
        try (Relay relay = new Relay(host, port)) {
            boolean takes = client("unused").takesAliases();
            Client client = library.apply(new Options(host, relay.port(), "aliases", 0, takes ? 5 : 0, 0, null));
            client.connect();
            client.subscribe("aliases/+", 1);
            for (int i = 0; i < 50; i++) {
                client.publish(topic, Integer.toString(i), 1).get(WAIT_SECONDS, TimeUnit.SECONDS);
                Delivery delivery = next(client);
                same(delivery.topic(), topic);
                same(delivery.body(), Integer.toString(i));
                delivery.acknowledge().run();
            }
            client.disconnect();
            isTrue(relay.sent.get() < 5 * topic.length(), relay.sent + " bytes to the gateway");
            isTrue(!takes || relay.received.get() < 5 * topic.length(), relay.received + " bytes to the client");
        }
    }

    private void receiveMaximum() throws Exception {
        Client writer = client("writer");
        writer.connect();
        for (int qos = 1; qos <= writer.qosMax(); qos++) {
            Client reader = library.apply(new Options(host, port, "reader", 3, 0, 0, null));
            reader.connect();
            reader.subscribe("flow", qos);
            for (int i = 0; i < 9; i++) {
                writer.publish("flow", Integer.toString(i), qos).get(WAIT_SECONDS, TimeUnit.SECONDS);
            }
            for (int i = 0; i < 9; i += 3) {
                List<Delivery> held = new ArrayList<>();
                for (int j = i; j < i + 3; j++) {
                    held.add(next(reader));
                    same(held.get(j - i).body(), Integer.toString(j));
                }
                nothingMore(reader); // three are not acknowledged
                held.forEach(delivery -> delivery.acknowledge().run());
            }
            reader.disconnect();
        }
        writer.disconnect();
    }

    private void receiveMaximumOfGateway() throws Exception {
        Client client = client("many");
        client.connect();
        client.subscribe("many", 1);
        List<String> numbers = IntStream.range(0, MANY).mapToObj(Integer::toString).toList();
        List<CompletableFuture<Answer>> answers = new ArrayList<>();
        for (String number : numbers) {
            answers.add(client.publish("many", number, 1));
        }
        for (String number : numbers) {
            Delivery delivery = next(client);
            same(delivery.body(), number);
            delivery.acknowledge().run();
        }
        for (CompletableFuture<Answer> answer : answers) {
            same(answer.get(WAIT_SECONDS, TimeUnit.SECONDS).reason(), 0);
        }
        client.disconnect();
    }

    /** The queue where topics without a route are; its new group begins with the subscription. */
    private void settled() throws Exception {
        Client client = client("settled");
        client.connect();
        client.subscribe("$share/five/$queue/mqtt", 1);
        client.givenBack.add("later");
        for (String body : List.of("later", "done")) {
            client.publish("jobs/x", body, 1).get(WAIT_SECONDS, TimeUnit.SECONDS);
        }
        long began = System.nanoTime();
        for (String body : List.of("later", "done", "later")) {
            Delivery delivery = next(client);
            same(List.of(delivery.topic(), delivery.body()), List.of("$queue/mqtt", body));
            delivery.acknowledge().run();
        }
        isTrue(System.nanoTime() - began >= 600_000_000L, "too early");
        nothingMore(client);
        client.disconnect();
    }

    private int run() {
        check("an identifier from the gateway, and its keep alive", this::accepted);
        check("reason strings", this::reasons);
        check("wills, at once and after a delay, and taken back", this::wills);
        check("topic aliases, both ways", this::aliases);
        check("the receive maximum of the client", this::receiveMaximum);
        check("the receive maximum of the gateway, with " + MANY + " messages", this::receiveMaximumOfGateway);
        if (client("unused").setsReasons()) {
            check("$queue: given back for a while by PUBACK", this::settled);
        }
        return tried.failed();
    }

    public static void main(String[] arguments) {
        LogManager.getLogManager().reset(); // Paho tells of every packet
        boolean hivemq = arguments[0].equals("hivemq");
        System.exit(new Five(hivemq ? "hivemq-mqtt-client v5" : "paho.java v5", arguments[1], Integer.parseInt(arguments[2]),
                hivemq ? HivemqFive::new : PahoFive::new).run() > 0 ? 1 : 0);
    }
}
