// SPDX-License-Identifier: Apache-2.0
import jakarta.jms.BytesMessage;
import jakarta.jms.Connection;
import jakarta.jms.ConnectionFactory;
import jakarta.jms.DeliveryMode;
import jakarta.jms.Destination;
import jakarta.jms.JMSException;
import jakarta.jms.MapMessage;
import jakarta.jms.InvalidClientIDException;
import jakarta.jms.InvalidDestinationException;
import jakarta.jms.Message;
import jakarta.jms.MessageConsumer;
import jakarta.jms.MessageProducer;
import jakarta.jms.ObjectMessage;
import jakarta.jms.Queue;
import jakarta.jms.QueueBrowser;
import jakarta.jms.Session;
import jakarta.jms.TemporaryQueue;
import jakarta.jms.TemporaryTopic;
import jakarta.jms.TextMessage;
import jakarta.jms.Topic;
import java.net.HttpURLConnection;
import java.net.URI;
import java.nio.charset.StandardCharsets;
import java.util.Collections;
import java.util.HashMap;
import java.util.HashSet;
import java.util.Map;
import java.util.Set;
import org.apache.qpid.jms.JmsConnectionFactory;

/** Apache Qpid JMS over AMQP 1.0: java Jms HOST PORT. The gateway makes queues on demand. */
public final class Jms {
    private static final long WAIT_MS = 15000;
    /** Long enough for a message that must not come to come. */
    private static final long QUIET_MS = 500;

    private final Connection connection;
    private int failed;

    private interface Body {
        void run() throws Exception;
    }

    private Jms(Connection connection) {
        this.connection = connection;
    }

    private void check(String what, Body body) {
        long began = System.nanoTime();
        try {
            body.run();
            System.out.printf("ok      qpid-jms: %s (%.2f s)%n", what, (System.nanoTime() - began) / 1e9);
        } catch (Exception | AssertionError error) {
            failed++;
            error.printStackTrace();
            System.out.printf("failed  qpid-jms: %s: %.200s%n", what, error);
        }
    }

    private static void same(Object got, Object want) {
        if (got == null ? want != null : !got.equals(want)) {
            throw new AssertionError(String.format("got %.90s, want %.90s", got, want));
        }
    }

    private static void nothing(MessageConsumer consumer) throws JMSException {
        same(consumer.receive(QUIET_MS), null);
    }

    private static String text(MessageConsumer consumer) throws JMSException {
        Message message = consumer.receive(WAIT_MS);
        return message == null ? null : ((TextMessage) message).getText();
    }

    /** The text of what has come that often, with this. */
    private static String text(MessageConsumer consumer, int times) throws JMSException {
        Message message = consumer.receive(WAIT_MS);
        if (message == null) {
            return null;
        }
        same(message.getIntProperty("JMSXDeliveryCount"), times);
        same(message.getJMSRedelivered(), times > 1);
        return ((TextMessage) message).getText();
    }

    private Session session(int mode) throws JMSException {
        return connection.createSession(mode);
    }

    private void kinds() throws Exception {
        Session session = session(Session.AUTO_ACKNOWLEDGE);
        Queue queue = session.createQueue("jms.kinds");
        MessageProducer producer = session.createProducer(queue);
        MessageConsumer consumer = session.createConsumer(queue);
        TextMessage text = session.createTextMessage("käse");
        text.setJMSCorrelationID("c");
        text.setJMSType("type");
        text.setJMSReplyTo(queue);
        text.setStringProperty("s", "x");
        text.setIntProperty("i", -5);
        text.setLongProperty("l", 1L << 40);
        text.setDoubleProperty("d", 2.5);
        text.setBooleanProperty("b", true);
        producer.send(text, DeliveryMode.PERSISTENT, 7, 60000);
        TextMessage got = (TextMessage) consumer.receive(WAIT_MS);
        same(got.getText(), "käse");
        same(got.getJMSMessageID(), text.getJMSMessageID());
        same(got.getJMSCorrelationID(), "c");
        same(got.getJMSType(), "type");
        same(got.getJMSPriority(), 7);
        same(got.getJMSDeliveryMode(), DeliveryMode.PERSISTENT);
        same(got.getJMSDestination(), queue);
        same(got.getJMSReplyTo(), queue);
        same(got.getJMSExpiration(), text.getJMSExpiration());
        same(got.getStringProperty("s"), "x");
        same(got.getIntProperty("i"), -5);
        same(got.getLongProperty("l"), 1L << 40);
        same(got.getDoubleProperty("d"), 2.5);
        same(got.getBooleanProperty("b"), true);
        BytesMessage bytes = session.createBytesMessage();
        bytes.writeBytes(new byte[1 << 20]);
        producer.send(bytes);
        same(((BytesMessage) consumer.receive(WAIT_MS)).getBodyLength(), 1L << 20);
        MapMessage map = session.createMapMessage();
        map.setInt("n", 1);
        map.setString("t", "x");
        producer.send(map);
        MapMessage mapped = (MapMessage) consumer.receive(WAIT_MS);
        same(mapped.getInt("n"), 1);
        same(mapped.getString("t"), "x");
        ObjectMessage object = session.createObjectMessage(new HashMap<>(Map.of("k", "v")));
        producer.send(object);
        same(((ObjectMessage) consumer.receive(WAIT_MS)).getObject(), Map.of("k", "v"));
        session.close();
    }

    private void order() throws Exception {
        Session session = session(Session.AUTO_ACKNOWLEDGE);
        Queue queue = session.createQueue("jms.order");
        MessageProducer producer = session.createProducer(queue);
        for (int i = 0; i < 200; i++) {
            producer.send(session.createTextMessage("" + i));
        }
        MessageConsumer consumer = session.createConsumer(queue);
        for (int i = 0; i < 200; i++) {
            same(text(consumer), "" + i);
        }
        nothing(consumer);
        session.close();
    }

    private void acknowledge() throws Exception {
        Session session = session(Session.CLIENT_ACKNOWLEDGE);
        Queue queue = session.createQueue("jms.client");
        MessageProducer producer = session.createProducer(queue);
        for (int i = 0; i < 3; i++) {
            producer.send(session.createTextMessage("" + i));
        }
        MessageConsumer consumer = session.createConsumer(queue);
        same(text(consumer), "0");
        Message second = consumer.receive(WAIT_MS);
        second.acknowledge();
        same(text(consumer), "2");
        session.recover();
        Message again = consumer.receive(WAIT_MS);
        same(((TextMessage) again).getText(), "2");
        same(again.getJMSRedelivered(), true);
        again.acknowledge();
        session.close();
    }

    private void transactions() throws Exception {
        Session session = session(Session.SESSION_TRANSACTED);
        Queue in = session.createQueue("jms.tx.in");
        Queue out = session.createQueue("jms.tx.out");
        Session other = session(Session.AUTO_ACKNOWLEDGE);
        other.createProducer(in).send(other.createTextMessage("work"));
        MessageConsumer outcome = other.createConsumer(out);
        MessageProducer producer = session.createProducer(out);
        MessageConsumer consumer = session.createConsumer(in);
        same(text(consumer, 1), "work");
        producer.send(session.createTextMessage("first"));
        session.rollback();
        nothing(outcome);
        same(text(consumer, 2), "work");
        producer.send(session.createTextMessage("second"));
        session.commit();
        same(text(outcome), "second");
        nothing(consumer);
        session.close();
        other.close();
    }

    /** What was rolled back is never there, what was committed only then, and not before its time. */
    private void delayedInTransactions() throws Exception {
        Session session = session(Session.SESSION_TRANSACTED);
        Session other = session(Session.AUTO_ACKNOWLEDGE);
        Queue queue = session.createQueue("jms.tx.delayed");
        MessageConsumer consumer = other.createConsumer(queue);
        MessageProducer producer = session.createProducer(queue);
        producer.setDeliveryDelay(100);
        producer.send(session.createTextMessage("never"));
        session.rollback();
        Message late = session.createTextMessage("late");
        producer.setDeliveryDelay(1500);
        producer.send(late);
        long due = late.getJMSDeliveryTime();
        producer.setDeliveryDelay(100);
        producer.send(session.createTextMessage("soon"));
        nothing(consumer); // beyond the time of what is not committed
        session.commit();
        same(text(consumer), "soon");
        same(text(consumer), "late");
        same(System.currentTimeMillis() >= due, true);
        nothing(consumer);
        session.close();
        other.close();
    }

    /** Settlements of a topic's deliveries: rolled back, they come again, in order and counted; committed, they do not. */
    private void topicsInTransactions(String url) throws Exception {
        try (Connection own = connect(url, "transacted")) {
            Session session = own.createSession(true, Session.SESSION_TRANSACTED);
            Topic topic = session.createTopic("jms/transacted");
            MessageConsumer plain = session.createConsumer(topic);
            MessageConsumer kept = session.createDurableConsumer(topic, "kept");
            send(topic, 2);
            for (int attempt = 1; attempt <= 3; attempt++) {
                for (MessageConsumer consumer : new MessageConsumer[] {plain, kept}) {
                    for (String wanted : new String[] {"0", "1"}) {
                        same(text(consumer, attempt), wanted);
                    }
                }
                if (attempt < 3) {
                    session.rollback();
                }
            }
            session.commit();
            nothing(plain);
            nothing(kept);
            send(topic, 1);
            same(text(plain, 1), "0");
            same(text(kept, 1), "0");
        } // neither committed nor rolled back
        try (Connection again = connect(url, "transacted")) {
            Session session = again.createSession(true, Session.SESSION_TRANSACTED);
            Topic topic = session.createTopic("jms/transacted");
            MessageConsumer kept = session.createDurableConsumer(topic, "kept");
            same(text(kept), "0");
            session.commit();
            nothing(kept);
            kept.close();
            session.unsubscribe("kept");
        }
    }

    private void selectors() throws Exception {
        Session session = session(Session.AUTO_ACKNOWLEDGE);
        Queue queue = session.createQueue("jms.selectors");
        MessageProducer producer = session.createProducer(queue);
        for (int i = 0; i < 6; i++) {
            Message message = session.createTextMessage("" + i);
            message.setIntProperty("n", i);
            producer.send(message);
        }
        MessageConsumer consumer = session.createConsumer(queue, "n > 3");
        same(text(consumer), "4");
        same(text(consumer), "5");
        nothing(consumer);
        session.close();
    }

    private void topics() throws Exception {
        Session session = session(Session.AUTO_ACKNOWLEDGE);
        Topic topic = session.createTopic("jms/topic");
        MessageConsumer one = session.createConsumer(topic);
        MessageConsumer two = session.createConsumer(topic);
        session.createProducer(topic).send(session.createTextMessage("news"));
        same(text(one), "news");
        same(text(two), "news");
        session.close();
    }

    /** What one's own connection publishes does not come, also to what is kept; what another one does, does. */
    private void noLocal(String url) throws Exception {
        try (Connection own = connect(url, "not-mine")) {
            Session session = own.createSession(false, Session.AUTO_ACKNOWLEDGE);
            Topic topic = session.createTopic("jms/own");
            MessageConsumer all = session.createConsumer(topic);
            MessageConsumer others = session.createConsumer(topic, null, true);
            MessageConsumer kept = session.createDurableConsumer(topic, "others", null, true);
            session.createProducer(topic).send(session.createTextMessage("mine"));
            send(topic, 1);
            same(text(all), "mine");
            for (MessageConsumer consumer : new MessageConsumer[] {all, others, kept}) {
                same(text(consumer), "0");
                nothing(consumer);
            }
            kept.close();
            session.unsubscribe("others");
        }
    }

    private static final String PREFETCH_NONE = "&jms.prefetchPolicy.all=0";

    private static Connection connect(String url, String clientId) throws Exception {
        Connection connection = new JmsConnectionFactory("", "", url).createConnection();
        if (clientId != null) {
            connection.setClientID(clientId);
        }
        connection.start();
        return connection;
    }

    /** No two connections have one client id, also on several workers. */
    private void clientIds(String url) throws Exception {
        Connection first = connect(url, "of one");
        for (int i = 0; i < 5; i++) {
            try (Connection second = connect(url, "of one")) {
                throw new AssertionError("a second connection came in");
            } catch (InvalidClientIDException wanted) {
                continue;
            }
        }
        first.close();
        connect(url, "of one").close();
    }

    /** Across connections, with what was not acknowledged, and until it is given up. */
    private void durable(String url) throws Exception {
        Topic topic;
        try (Connection first = connect(url, "durable")) {
            Session session = first.createSession(false, Session.CLIENT_ACKNOWLEDGE);
            topic = session.createTopic("jms/durable");
            MessageConsumer consumer = session.createDurableSubscriber(topic, "news", "n <> 2", false);
            send(topic, 4);
            same(text(consumer), "0");
            Message one = consumer.receive(WAIT_MS);
            one.acknowledge();
            same(text(consumer), "3");
        }
        send(topic, 2);
        try (Connection second = connect(url, "durable")) {
            Session session = second.createSession(false, Session.AUTO_ACKNOWLEDGE);
            MessageConsumer consumer = session.createDurableSubscriber(topic, "news", "n <> 2", false);
            for (String wanted : new String[] {"3", "0", "1"}) {
                same(text(consumer), wanted);
            }
            nothing(consumer);
            consumer.close();
            send(topic, 1);
            consumer = session.createDurableSubscriber(topic, "news", "n <> 2", false);
            same(text(consumer), "0");
            consumer.close();
            session.unsubscribe("news");
            send(topic, 1);
            consumer = session.createDurableSubscriber(topic, "news", "n <> 2", false);
            nothing(consumer);
            consumer.close();
            session.unsubscribe("news");
            try {
                session.unsubscribe("news");
                throw new AssertionError("unsubscribed twice");
            } catch (InvalidDestinationException expected) {
                same(expected != null, true);
            }
        }
        try (Connection third = connect(url + PREFETCH_NONE, "pulls")) {
            Session session = third.createSession(false, Session.AUTO_ACKNOWLEDGE);
            MessageConsumer consumer = session.createDurableConsumer(topic, "pulled");
            nothing(consumer);
            send(topic, 2);
            same(text(consumer), "0");
            same(text(consumer), "1");
            same(consumer.receiveNoWait(), null);
            consumer.close();
            session.unsubscribe("pulled");
        }
    }

    /** Members of a shared subscription get each message once. */
    private void shared(String url) throws Exception {
        try (Connection other = connect(url, null)) {
            Session session = session(Session.AUTO_ACKNOWLEDGE);
            Session elsewhere = other.createSession(false, Session.AUTO_ACKNOWLEDGE);
            Topic topic = session.createTopic("jms/shared");
            MessageConsumer[] consumers = {session.createSharedConsumer(topic, "work"),
                session.createSharedConsumer(topic, "work"), elsewhere.createSharedConsumer(topic, "work")};
            send(topic, 30);
            int got = 0;
            for (long end = System.currentTimeMillis() + WAIT_MS; got < 30 && System.currentTimeMillis() < end;) {
                for (MessageConsumer consumer : consumers) {
                    while (consumer.receive(50) != null) {
                        got++;
                    }
                }
            }
            same(got, 30);
            for (MessageConsumer consumer : consumers) {
                nothing(consumer);
            }
            session.close();
        }
    }

    private static void locked(Body body) throws Exception {
        try {
            body.run();
        } catch (JMSException expected) {
            same(expected.getMessage().contains("amqp:resource-locked"), true);
            return;
        }
        throw new AssertionError("done while somebody receives");
    }

    /** Of one client id or of any; while nobody is there; until it is given up, which needs that nobody receives. */
    private void sharedDurable(String url) throws Exception {
        Topic topic = connection.createSession().createTopic("jms/kept");
        for (String clientId : new String[] {"members", null}) {
            try (Connection first = connect(url, clientId)) {
                Session session = first.createSession(false, Session.CLIENT_ACKNOWLEDGE);
                MessageConsumer consumer = session.createSharedDurableConsumer(topic, "crew", "n <> 1");
                MessageConsumer second = session.createSharedDurableConsumer(topic, "crew", "n <> 1");
                send(topic, 4);
                Message one = consumer.receive(WAIT_MS);
                Message other = second.receive(WAIT_MS);
                same(one == null || other == null, false);
                other.acknowledge(); // all of the session
            }
            send(topic, 3);
            try (Connection again = connect(url, clientId)) {
                Session session = again.createSession(false, Session.AUTO_ACKNOWLEDGE);
                MessageConsumer consumer = session.createSharedDurableConsumer(topic, "crew", "n <> 1");
                Set<String> got = new HashSet<>();
                for (int i = 0; i < 3; i++) {
                    got.add(text(consumer));
                }
                nothing(consumer);
                same(got.containsAll(Set.of("0", "2")), true);
                if (clientId == null) {
                    try (Connection third = connect(url, null)) {
                        Session other = third.createSession();
                        locked(() -> other.unsubscribe("crew"));
                        locked(() -> other.createSharedDurableConsumer(topic, "crew", "n <> 2"));
                    }
                }
                consumer.close();
                session.unsubscribe("crew");
                send(topic, 3);
                consumer = session.createSharedDurableConsumer(topic, "crew");
                nothing(consumer);
                consumer.close();
                session.unsubscribe("crew");
            }
        }
    }

    /** What a session settles is over with its commit; else it comes again, also to members of other connections. */
    private void sharedTransacted(String url) throws Exception {
        Session own = session(Session.AUTO_ACKNOWLEDGE);
        Topic topic = own.createTopic("jms/deals");
        Queue out = own.createQueue("jms.deals.out");
        MessageConsumer outcome = own.createConsumer(out);
        try (Connection one = connect(url + PREFETCH_NONE, null); Connection other = connect(url + PREFETCH_NONE, null)) {
            Session session = one.createSession(Session.SESSION_TRANSACTED);
            MessageConsumer consumer = session.createSharedDurableConsumer(topic, "deals");
            MessageProducer producer = session.createProducer(out);
            send(topic, 3);
            same(text(consumer, 1), "0");
            same(text(consumer, 1), "1");
            producer.send(session.createTextMessage("none"));
            session.rollback();
            nothing(outcome);
            Set<String> again = new HashSet<>(Set.of(text(consumer, 2), text(consumer, 2)));
            same(again, Set.of("0", "1"));
            producer.send(session.createTextMessage("two"));
            session.commit();
            same(text(outcome), "two");
            same(text(consumer, 1), "2"); // and is not committed: it is another's when the connection goes
            Session elsewhere = other.createSession(Session.SESSION_TRANSACTED);
            MessageConsumer second = elsewhere.createSharedDurableConsumer(topic, "deals");
            nothing(second);
            one.close();
            same(text(second), "2");
            elsewhere.rollback();
            same(text(second), "2");
            elsewhere.createProducer(out).send(elsewhere.createTextMessage("third"));
            elsewhere.commit();
            same(text(outcome), "third");
        }
        try (Connection third = connect(url, null)) {
            Session session = third.createSession(Session.AUTO_ACKNOWLEDGE);
            MessageConsumer consumer = session.createSharedDurableConsumer(topic, "deals");
            nothing(consumer);
            consumer.close();
            session.unsubscribe("deals");
        }
        own.close();
    }

    private void send(Topic topic, int count) throws Exception {
        Session session = session(Session.AUTO_ACKNOWLEDGE);
        MessageProducer producer = session.createProducer(topic);
        for (int i = 0; i < count; i++) {
            Message message = session.createTextMessage("" + i);
            message.setIntProperty("n", i);
            producer.send(message);
        }
        session.close();
    }

    private void requests() throws Exception {
        Session session = session(Session.AUTO_ACKNOWLEDGE);
        Queue queue = session.createQueue("jms.requests");
        TemporaryQueue replies = session.createTemporaryQueue();
        MessageConsumer reply = session.createConsumer(replies);
        MessageConsumer service = session.createConsumer(queue);
        TextMessage request = session.createTextMessage("1 + 1");
        request.setJMSReplyTo(replies);
        session.createProducer(queue).send(request);
        Message got = service.receive(WAIT_MS);
        session.createProducer(null).send(got.getJMSReplyTo(), session.createTextMessage("2"));
        same(text(reply), "2");
        session.close();
    }

    /** A temporary queue is a queue: it keeps, it shares, it is its connection's own, and it ends. */
    private void temporaryQueues(String url) throws Exception {
        Session session = session(Session.AUTO_ACKNOWLEDGE);
        TemporaryQueue queue = session.createTemporaryQueue();
        MessageProducer producer = session.createProducer(queue);
        producer.send(session.createTextMessage("before its consumer"));
        MessageConsumer first = session.createConsumer(queue);
        same(text(first), "before its consumer");
        MessageConsumer second = session.createConsumer(queue);
        producer.send(session.createTextMessage("once"));
        Message one = first.receive(QUIET_MS);
        Message other = second.receive(QUIET_MS);
        same(one == null, other != null);
        try (Connection another = connect(url, null)) {
            Session elsewhere = another.createSession();
            Queue same = elsewhere.createQueue(queue.getQueueName());
            MessageProducer answer = elsewhere.createProducer(null);
            answer.send(same, elsewhere.createTextMessage("an answer"));
            Message got = first.receive(QUIET_MS);
            got = got == null ? second.receive(QUIET_MS) : got;
            same(((TextMessage) got).getText(), "an answer");
            refused(() -> elsewhere.createConsumer(same));
            MessageProducer late = elsewhere.createProducer(same);
            first.close();
            second.close();
            queue.delete();
            refused(() -> answer.send(same, elsewhere.createTextMessage("too late")));
            refused(() -> late.send(elsewhere.createTextMessage("too late")));
            refused(() -> elsewhere.createProducer(same));
        }
        session.close();
    }

    private static void refused(Body body) throws Exception {
        try {
            body.run();
        } catch (JMSException expected) {
            return;
        }
        throw new AssertionError("not refused");
    }

    /** A temporary topic: everybody who knows it may publish, its connection reads. */
    private void temporaryTopics(String url) throws Exception {
        Session session = session(Session.AUTO_ACKNOWLEDGE);
        TemporaryTopic answers = session.createTemporaryTopic();
        MessageConsumer[] consumers = {session.createConsumer(answers), session.createConsumer(answers)};
        Topic topic = session.createTopic("jms/asked");
        try (Connection other = connect(url, null)) {
            Session elsewhere = other.createSession();
            MessageConsumer service = elsewhere.createConsumer(topic);
            Message request = session.createTextMessage("who?");
            request.setJMSReplyTo(answers);
            request.setJMSCorrelationID("r");
            session.createProducer(topic).send(request);
            Message got = service.receive(WAIT_MS);
            TextMessage reply = elsewhere.createTextMessage("me");
            reply.setJMSCorrelationID(got.getJMSCorrelationID());
            elsewhere.createProducer(null).send(got.getJMSReplyTo(), reply);
        }
        for (MessageConsumer consumer : consumers) {
            Message reply = consumer.receive(WAIT_MS);
            same(((TextMessage) reply).getText(), "me");
            same(reply.getJMSCorrelationID(), "r");
            consumer.close();
        }
        answers.delete();
        session.close();
    }

    /** A producer of no destination, to queues, also new ones, to topics and to a topic that asks. */
    private void anonymous() throws Exception {
        Session session = session(Session.AUTO_ACKNOWLEDGE);
        MessageProducer anywhere = session.createProducer(null);
        Queue made = session.createQueue("jms.made.by.relay");
        anywhere.send(made, session.createTextMessage("to a queue"));
        same(text(session.createConsumer(made)), "to a queue");
        Topic news = session.createTopic("jms.news");
        Topic answers = session.createTopic("jms.answers");
        MessageConsumer service = session.createConsumer(news);
        MessageConsumer reply = session.createConsumer(answers);
        session.createProducer(news).send(session.createTextMessage("by its own producer"));
        same(text(service), "by its own producer");
        Message request = session.createTextMessage("by any producer");
        request.setJMSReplyTo(answers);
        anywhere.send(news, request);
        Message got = service.receive(WAIT_MS);
        same(got.getJMSDestination(), news);
        same(got.getJMSReplyTo(), answers);
        anywhere.send(got.getJMSReplyTo(), session.createTextMessage("answered"));
        same(text(reply), "answered");
        session.close();
    }

    private static void rest(String method, String path, String body) throws Exception {
        HttpURLConnection call = (HttpURLConnection) URI.create("http://127.0.0.1:" + System.getenv("HTTP_PORT") + "/v1/default/" + path)
                .toURL().openConnection();
        call.setRequestMethod(method);
        call.setDoOutput(true);
        call.setRequestProperty("Content-Type", "application/json");
        call.getOutputStream().write(body.getBytes(StandardCharsets.UTF_8));
        same(call.getResponseCode() / 100, 2);
    }

    /** The kind of a destination, and its name; what is neither has none. */
    private static String described(Destination destination) throws JMSException {
        return destination == null ? "none"
                : destination instanceof Topic ? "topic " + ((Topic) destination).getTopicName()
                : "queue " + ((Queue) destination).getQueueName();
    }

    /** Of what came otherwise than through the queue it is read from, and asks for its reply somewhere else. */
    private void destinations() throws Exception {
        Session session = session(Session.AUTO_ACKNOWLEDGE);
        Queue queue = session.createQueue("jms.routed");
        MessageConsumer consumer = session.createConsumer(queue);
        rest("PUT", "routes/jms%2Frouted%2F%23", "{\"queue\":\"jms.routed\"}");
        Topic topic = session.createTopic("jms/routed/1");
        TemporaryQueue mine = session.createTemporaryQueue();
        TemporaryTopic ours = session.createTemporaryTopic();
        MessageConsumer live = session.createConsumer(topic);
        Destination[] replies = {null, session.createQueue("jms.answers"), session.createTopic("jms/answers"), mine, ours};
        MessageProducer anywhere = session.createProducer(null);
        for (Destination to : new Destination[] {queue, topic}) {
            for (Destination reply : replies) {
                TextMessage sent = session.createTextMessage(described(reply));
                sent.setJMSReplyTo(reply);
                anywhere.send(to, sent);
                for (MessageConsumer reader : to == topic ? new MessageConsumer[] {consumer, live} : new MessageConsumer[] {consumer}) {
                    Message got = reader.receive(WAIT_MS);
                    same(((TextMessage) got).getText(), described(reply));
                    same(described(got.getJMSDestination()), described(to));
                    same(described(got.getJMSReplyTo()), described(reply));
                    if (reply != null && reader == consumer) {
                        anywhere.send(got.getJMSReplyTo(), session.createTextMessage("answer"));
                    }
                }
            }
        }
        MessageConsumer answers = session.createConsumer(mine);
        same(text(answers), "answer");
        same(text(answers), "answer");
        // From another protocol: to a topic that leads to the queue, and to the queue.
        rest("POST", "publish", "{\"topic\":\"jms/routed/2\",\"messages\":[{\"body\":\"x\",\"reply_to\":\"jms/answers\"}]}");
        Message got = consumer.receive(WAIT_MS);
        same(described(got.getJMSDestination()), "topic jms/routed/2");
        same(described(got.getJMSReplyTo()), "topic jms/answers");
        rest("POST", "publish", "{\"queue\":\"jms.routed\",\"messages\":[{\"body\":\"x\",\"reply_to\":\"$queue/jms.answers\"}]}");
        got = consumer.receive(WAIT_MS);
        same(described(got.getJMSDestination()), "queue jms.routed");
        same(described(got.getJMSReplyTo()), "queue jms.answers");
        session.close();
    }

    private void browse() throws Exception {
        Session session = session(Session.AUTO_ACKNOWLEDGE);
        Queue queue = session.createQueue("jms.browsed");
        MessageProducer producer = session.createProducer(queue);
        for (int i = 0; i < 3; i++) {
            producer.send(session.createTextMessage("" + i));
        }
        QueueBrowser browser = session.createBrowser(queue);
        same(Collections.list(browser.getEnumeration()).size(), 3);
        browser.close();
        MessageConsumer consumer = session.createConsumer(queue);
        same(text(consumer), "0");
        session.close();
    }

    private void delays() throws Exception {
        Session session = session(Session.AUTO_ACKNOWLEDGE);
        Queue queue = session.createQueue("jms.delays");
        MessageProducer producer = session.createProducer(queue);
        producer.setDeliveryDelay(2000);
        producer.send(session.createTextMessage("later"));
        producer.setDeliveryDelay(0);
        producer.send(session.createTextMessage("now"));
        MessageConsumer consumer = session.createConsumer(queue);
        same(text(consumer), "now");
        same(text(consumer), "later");
        session.close();
    }

    public static void main(String[] arguments) throws Exception {
        String url = String.format("amqp://%s:%s?amqp.idleTimeout=30000", arguments[0], arguments[1]);
        ConnectionFactory factory = new JmsConnectionFactory("", "", url);
        Connection connection = factory.createConnection();
        connection.start();
        Jms jms = new Jms(connection);
        jms.check("text, bytes, map and object with properties", jms::kinds);
        jms.check("200 messages in order, each once", jms::order);
        jms.check("acknowledged by the client; what was not comes again", jms::acknowledge);
        jms.check("transactions: commit and rollback", jms::transactions);
        jms.check("delayed messages in transactions", jms::delayedInTransactions);
        jms.check("a topic's deliveries in transactions, plain and durable", () -> jms.topicsInTransactions(url));
        jms.check("selectors", jms::selectors);
        jms.check("topics", jms::topics);
        jms.check("a client id is of one connection", () -> jms.clientIds(url));
        jms.check("durable subscriptions, and their end", () -> jms.durable(url));
        jms.check("shared subscriptions, also of several connections", () -> jms.shared(url));
        jms.check("shared durable subscriptions, and their end", () -> jms.sharedDurable(url));
        jms.check("shared durable subscriptions in transactions", () -> jms.sharedTransacted(url));
        jms.check("a request and its reply through a temporary queue", jms::requests);
        jms.check("temporary queues keep, share, are one's own and end", () -> jms.temporaryQueues(url));
        jms.check("a request and its reply through a temporary topic", () -> jms.temporaryTopics(url));
        jms.check("a producer of no destination: queues, topics, replies", jms::anonymous);
        jms.check("destinations and replies of either kind, from queues and topics", jms::destinations);
        jms.check("no local: plain and durable", () -> jms.noLocal(url));
        jms.check("a browser leaves what it sees", jms::browse);
        jms.check("delivery delay", jms::delays);
        connection.close();
        System.exit(jms.failed > 0 ? 1 : 0);
    }
}
