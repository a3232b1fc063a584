// SPDX-License-Identifier: Apache-2.0
import jakarta.jms.Message;
import jakarta.jms.MessageConsumer;
import jakarta.jms.MessageProducer;
import jakarta.jms.TextMessage;
import jakarta.jms.Topic;
import java.io.BufferedReader;
import java.io.IOException;
import java.io.InputStreamReader;
import java.nio.charset.StandardCharsets;
import java.util.HashMap;
import java.util.HashSet;
import java.util.Map;
import java.util.Set;
import java.util.concurrent.ConcurrentSkipListMap;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.TimeUnit;
import org.apache.qpid.amqp_1_0.client.AcknowledgeMode;
import org.apache.qpid.amqp_1_0.client.Connection;
import org.apache.qpid.amqp_1_0.client.Receiver;
import org.apache.qpid.amqp_1_0.client.Sender;
import org.apache.qpid.amqp_1_0.client.Session;
import org.apache.qpid.amqp_1_0.transport.Container;
import org.apache.qpid.amqp_1_0.type.Binary;
import org.apache.qpid.amqp_1_0.type.Outcome;
import org.apache.qpid.amqp_1_0.type.UnsignedInteger;
import org.apache.qpid.amqp_1_0.type.messaging.Accepted;
import org.apache.qpid.amqp_1_0.type.messaging.AmqpValue;
import org.apache.qpid.amqp_1_0.type.messaging.Target;
import org.apache.qpid.amqp_1_0.type.messaging.TerminusDurability;
import org.apache.qpid.jms.JmsConnectionFactory;

/**
 * Links whose termini are durable, over a kill -9 of the gateway, which is started in an empty DIRECTORY:
 * java Durable POLYLOGD DIRECTORY. Qpid's AMQP 1.0
 * client (0.32) asks for a target's durability and says what is unsettled; Qpid JMS has durable subscriptions.
 */
public final class Durable {
    private static final int MESSAGES = 300;
    private static final long WAIT_MS = 15000;
    /** Long enough for a message that must not come to come, and for all that was sent to be stored. */
    private static final long QUIET_MS = 500;
    /** A machine that does other things as well answers what has come in less. */
    private static final long ANSWERED_MS = 1500;
    private static final String HOST = "127.0.0.1";
    private static final String QUEUE = "durable";

    /** Of our own, as it dies. */
    private static final class Gateway {
        private final String binary;
        private final String store;
        private Process process;
        int port;

        Gateway(String binary, String store) throws IOException {
            this.binary = binary;
            this.store = store;
            Runtime.getRuntime().addShutdownHook(new Thread(() -> process.destroyForcibly()));
            start();
        }

        void start() throws IOException {
            ProcessBuilder builder = new ProcessBuilder(binary, "--data", store, "--set", "mqtt.port=0", "--set", "amqp.port=0",
                    "--set", "http.port=0", "--set", "amqp.auto_create=true");
            process = builder.redirectError(ProcessBuilder.Redirect.INHERIT).start();
            BufferedReader said = new BufferedReader(new InputStreamReader(process.getInputStream(), StandardCharsets.UTF_8));
            for (String line; (line = said.readLine()) != null; ) {
                if (line.startsWith("ready ")) {
                    port = Integer.parseInt(line.replaceFirst(".* amqp=[^ ]*:(\\d+).*", "$1"));
                    return;
                }
            }
            throw new IOException("the gateway does not start");
        }

        void kill9() throws InterruptedException {
            process.destroyForcibly().waitFor();
        }

        void again() throws IOException, InterruptedException {
            kill9();
            start();
        }
    }

    private static final class Link {
        final Connection connection;
        final Session session;

        Link(int port, String container) throws Exception {
            connection = new Connection(HOST, port, null, null, new Container(container), false);
            session = connection.createSession();
        }
    }

    private static void same(Object got, Object want) {
        if (got == null ? want != null : !got.equals(want)) {
            throw new AssertionError(String.format("got %.90s, want %.90s", got, want));
        }
    }

    private static void until(String what, CountDownLatch latch) throws InterruptedException {
        if (!latch.await(WAIT_MS, TimeUnit.MILLISECONDS)) {
            throw new AssertionError(latch.getCount() + " " + what);
        }
    }

    /** Not EO, where the gateway is to settle second: the client fails at a disposition that leaves out `settled`. */
    private static Sender sender(Link link, Map<Binary, Outcome> unsettled) throws Exception {
        Sender sender = new Sender(link.session, "kept", QUEUE, "here", 0, AcknowledgeMode.ALO, true, unsettled);
        same(((Target) sender.getTarget()).getDurable(), TerminusDurability.UNSETTLED_STATE);
        return sender;
    }

    private static void send(Sender sender, int number, String body, boolean again, Sender.OutcomeAction action) throws Exception {
        var message = new org.apache.qpid.amqp_1_0.client.Message(body);
        message.setDeliveryTag(tag(number));
        message.setResume(again);
        sender.send(message, action);
    }

    private static Binary tag(int number) {
        return new Binary(("t" + number).getBytes(StandardCharsets.UTF_8));
    }

    /**
     * What is unsettled when the gateway dies is sent again, to the same link: each message is stored once. The answers get
     * lost from some time on, so that the gateway knows what the client does not; or it dies in the middle of all.
     */
    private static void resumes(Gateway gateway) throws Exception {
        Set<String> wanted = new HashSet<>();
        for (int round = 0; round < 4; round++) {
            boolean lost = round % 2 == 0;
            ConcurrentSkipListMap<Integer, String> waiting = new ConcurrentSkipListMap<>();
            CountDownLatch some = new CountDownLatch(50);
            Relay relay = new Relay(HOST, gateway.port);
            Sender sender = sender(new Link(relay.port(), "container"), new HashMap<>());
            for (int i = 0; i < MESSAGES; i++) {
                int number = i;
                String body = round + "-" + i;
                waiting.put(i, body);
                wanted.add(body);
                send(sender, i, body, false, (tag, outcome) -> {
                    if (outcome instanceof Accepted && !relay.silent) {
                        waiting.remove(number);
                        some.countDown();
                    }
                });
                if (i == 99) {
                    until("answers missing", some);
                    relay.silent = lost;
                }
            }
            if (lost) { // all is answered, in vain, when the gateway says nothing more
                for (long before = -1; before != relay.received.get(); Thread.sleep(ANSWERED_MS)) {
                    before = relay.received.get();
                }
            }
            gateway.kill9();
            relay.close();
            Map<Integer, String> unsettled = new HashMap<>(waiting);
            same(unsettled.size() < MESSAGES, true);
            Map<Binary, Outcome> map = new HashMap<>();
            unsettled.keySet().forEach(number -> map.put(tag(number), null));
            gateway.start();

            Link link = new Link(gateway.port, "container");
            sender = sender(link, map);
            Set<Binary> known = sender.getRemoteUnsettled() == null ? Set.of() : sender.getRemoteUnsettled().keySet();
            same(map.keySet().containsAll(known), true); // what was settled is not offered again
            if (lost) {
                same(known, map.keySet());
            }
            CountDownLatch all = new CountDownLatch(unsettled.size());
            for (Map.Entry<Integer, String> entry : unsettled.entrySet()) {
                send(sender, entry.getKey(), entry.getValue(), known.contains(tag(entry.getKey())), (tag, outcome) -> {
                    if (outcome instanceof Accepted) {
                        all.countDown();
                    }
                });
            }
            until("of " + unsettled.size() + " not accepted, " + known.size() + " known", all);
            link.connection.close();
        }
        Link link = new Link(gateway.port, "reader");
        Receiver receiver = link.session.createReceiver(QUEUE, AcknowledgeMode.ALO, "reader");
        receiver.setCredit(UnsignedInteger.valueOf(5000), false);
        Set<String> stored = new HashSet<>();
        while (stored.size() < wanted.size()) {
            same(stored.add(next(receiver, WAIT_MS)), true);
        }
        same(stored, wanted);
        same(next(receiver, QUIET_MS), null);
        link.connection.close();
    }

    private static String text(org.apache.qpid.amqp_1_0.client.Message message) {
        for (Object section : message.getPayload()) {
            if (section instanceof AmqpValue value) {
                return (String) value.getValue();
            }
        }
        throw new AssertionError("no text");
    }

    private static String next(Receiver receiver, long wait) {
        var message = receiver.receive(wait);
        if (message == null) {
            return null;
        }
        receiver.acknowledge(message);
        return text(message);
    }

    /** A source whose state is durable: what the gateway has settled too is over, all else comes again under its tag. */
    private static void receives(Gateway gateway) throws Exception {
        Map<Binary, Outcome> unsettled = new HashMap<>();
        Link link = new Link(gateway.port, "container");
        Receiver receiver = receiver(link, unsettled);
        Link other = new Link(gateway.port, "other");
        Sender sender = other.session.createSender("/topics/durable/source");
        for (int i = 0; i < 20; i++) {
            sender.send(new org.apache.qpid.amqp_1_0.client.Message("" + i));
        }
        CountDownLatch over = new CountDownLatch(10);
        Map<Binary, String> left = new HashMap<>();
        for (int i = 0; i < 20; i++) {
            var message = receiver.receive(WAIT_MS);
            same(text(message), "" + i);
            if (i % 2 == 0) {
                receiver.acknowledge(message, tag -> over.countDown());
            } else {
                left.put(message.getDeliveryTag(), text(message));
                unsettled.put(message.getDeliveryTag(), null);
            }
        }
        until("not settled by the gateway", over);
        gateway.again();
        link = new Link(gateway.port, "container");
        receiver = receiver(link, unsettled);
        Map<Binary, String> again = new HashMap<>();
        for (int i = 0; i < 10; i++) {
            var message = receiver.receive(WAIT_MS);
            again.put(message.getDeliveryTag(), text(message));
            receiver.acknowledge(message);
        }
        same(again, left);
        same(receiver.receive(QUIET_MS), null);
        receiver.close();
        link.connection.close();
    }

    private static Receiver receiver(Link link, Map<Binary, Outcome> unsettled) throws Exception {
        Receiver receiver =
                link.session.createReceiver("/topics/durable/source", AcknowledgeMode.EO, "kept", true, unsettled);
        receiver.setCredit(UnsignedInteger.valueOf(100), false);
        return receiver;
    }

    private static jakarta.jms.Connection jms(Gateway gateway) throws Exception {
        jakarta.jms.Connection connection = new JmsConnectionFactory("amqp://" + HOST + ":" + gateway.port).createConnection();
        connection.setClientID("durable");
        connection.start();
        return connection;
    }

    /** JMS: what was committed of a durable subscription is over, all else comes again, and what was sent meanwhile. */
    private static void subscribes(Gateway gateway) throws Exception {
        jakarta.jms.Connection before = jms(gateway);
        jakarta.jms.Session transacted = before.createSession(jakarta.jms.Session.SESSION_TRANSACTED);
        Topic kept = transacted.createTopic("durable/jms");
        MessageConsumer first = transacted.createDurableConsumer(kept, "kept");
        publish(before, kept, 0, 20);
        take(first, 0, 10);
        transacted.commit();
        take(first, 10, 15);
        gateway.again();
        try (jakarta.jms.Connection connection = jms(gateway)) {
            jakarta.jms.Session session = connection.createSession(jakarta.jms.Session.SESSION_TRANSACTED);
            Topic topic = session.createTopic("durable/jms");
            publish(connection, topic, 20, 25);
            MessageConsumer consumer = session.createDurableConsumer(topic, "kept");
            take(consumer, 10, 25);
            same(consumer.receive(QUIET_MS), null);
            session.commit();
            consumer.close();
            session.unsubscribe("kept");
        }
    }

    private static void publish(jakarta.jms.Connection connection, Topic topic, int from, int to) throws Exception {
        jakarta.jms.Session session = connection.createSession();
        MessageProducer producer = session.createProducer(topic);
        for (int i = from; i < to; i++) {
            producer.send(session.createTextMessage("" + i));
        }
        session.close();
    }

    private static void take(MessageConsumer consumer, int from, int to) throws Exception {
        for (int i = from; i < to; i++) {
            Message message = consumer.receive(WAIT_MS);
            same(message == null ? null : ((TextMessage) message).getText(), "" + i);
        }
    }

    public static void main(String[] args) throws Exception {
        Gateway gateway = new Gateway(args[0], args[1]);
        Tried tried = new Tried();
        tried.check("qpid-amqp-1-0-client: a durable target: each message once over kill -9", () -> resumes(gateway));
        tried.check("qpid-amqp-1-0-client: a durable source: what was settled does not come again after kill -9", () -> receives(gateway));
        tried.check("qpid-jms: a durable subscription: what was committed does not come again after kill -9", () -> subscribes(gateway));
        tried.exit();
    }
}
