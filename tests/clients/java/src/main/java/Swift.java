// SPDX-License-Identifier: Apache-2.0
import com.swiftmq.amqp.AMQPContext;
import com.swiftmq.amqp.v100.client.Connection;
import com.swiftmq.amqp.v100.client.Consumer;
import com.swiftmq.amqp.v100.client.DefaultDeliveryMemory;
import com.swiftmq.amqp.v100.client.Producer;
import com.swiftmq.amqp.v100.client.QoS;
import com.swiftmq.amqp.v100.client.Session;
import com.swiftmq.amqp.v100.generated.messaging.message_format.AmqpValue;
import com.swiftmq.amqp.v100.messaging.AMQPMessage;
import com.swiftmq.amqp.v100.types.AMQPString;
import java.util.HashSet;
import java.util.Set;

/** SwiftMQ's AMQP 1.0 client, which resumes links with its map of what is unsettled: java Swift HOST PORT. */
public final class Swift {
    private static final int MESSAGES = 20;
    private static final long WAIT_MS = 15000;
    private static final long QUIET_MS = 500;

    private static Connection connect(String host, int port) throws Exception {
        Connection connection = new Connection(new AMQPContext(AMQPContext.CLIENT), host, port, false);
        connection.setContainerId("swift");
        connection.connect();
        return connection;
    }

    private static AMQPMessage message(String text) {
        AMQPMessage message = new AMQPMessage();
        message.setAmqpValue(new AmqpValue(new AMQPString(text)));
        return message;
    }

    private static void resumes(String host, int port) throws Exception {
        int qos = QoS.EXACTLY_ONCE;
        String queue = "swift";
        DefaultDeliveryMemory memory = new DefaultDeliveryMemory();
        Relay relay = new Relay(host, port);
        Connection connection = connect("127.0.0.1", relay.port());
        Session session = connection.createSession(1000, 1000);
        Producer producer = session.createProducer(queue, qos, memory);
        relay.silent = true;
        for (int i = 0; i < MESSAGES; i++) {
            producer.send(message("m" + i));
        }
        Thread.sleep(QUIET_MS); // they are stored
        if (memory.getNumberUnsettled() != MESSAGES) {
            throw new AssertionError(memory.getNumberUnsettled() + " unsettled");
        }
        relay.close();
        connection.cancel();

        connection = connect(host, port);
        session = connection.createSession(1000, 1000);
        session.createProducer(queue, qos, memory);
        long end = System.currentTimeMillis() + WAIT_MS;
        while (memory.getNumberUnsettled() > 0) {
            if (System.currentTimeMillis() > end) {
                throw new AssertionError(memory.getNumberUnsettled() + " stay unsettled");
            }
            Thread.sleep(10);
        }
        connection.close();

        // On a link where it has resumed deliveries it goes on with ids that it has used.
        connection = connect(host, port);
        session = connection.createSession(1000, 1000);
        session.createProducer(queue, QoS.AT_LEAST_ONCE).send(message("last"));
        Consumer consumer = session.createConsumer(queue, 100, QoS.AT_LEAST_ONCE, true, null);
        Set<String> came = new HashSet<>();
        for (String text = ""; !text.equals("last");) {
            AMQPMessage got = consumer.receive(WAIT_MS);
            if (got == null) {
                throw new AssertionError("only " + came);
            }
            got.accept();
            text = ((AMQPString) got.getAmqpValue().getValue()).getValue();
            if (!came.add(text)) {
                throw new AssertionError(text + " is there twice");
            }
        }
        if (came.size() != MESSAGES + 1) {
            throw new AssertionError("only " + came);
        }
        connection.close();
    }

    public static void main(String[] args) {
        String host = args[0];
        int port = Integer.parseInt(args[1]);
        Tried tried = new Tried();
        tried.check("swiftmq: an exactly-once link resumed after its answers were lost", () -> resumes(host, port));
        tried.exit();
    }
}
