// SPDX-License-Identifier: Apache-2.0
import com.hivemq.client.mqtt.MqttClient;
import com.hivemq.client.mqtt.MqttGlobalPublishFilter;
import com.hivemq.client.mqtt.datatypes.MqttQos;
import com.hivemq.client.mqtt.datatypes.MqttTopicFilter;
import com.hivemq.client.mqtt.mqtt3.Mqtt3AsyncClient;
import com.hivemq.client.mqtt.mqtt3.Mqtt3ClientBuilder;
import com.hivemq.client.mqtt.mqtt3.exceptions.Mqtt3SubAckException;
import com.hivemq.client.mqtt.mqtt3.message.publish.Mqtt3Publish;
import com.hivemq.client.mqtt.mqtt3.message.subscribe.Mqtt3Subscribe;
import com.hivemq.client.mqtt.mqtt3.message.subscribe.Mqtt3Subscription;
import com.hivemq.client.mqtt.mqtt3.message.subscribe.suback.Mqtt3SubAck;
import com.hivemq.client.mqtt.mqtt3.message.unsubscribe.Mqtt3Unsubscribe;
import java.util.List;
import java.util.Map;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.ExecutionException;
import java.util.concurrent.TimeUnit;

/** HiveMQ's client, MQTT 3.1.1. */
final class Hivemq3 extends Connection {
    private final Mqtt3AsyncClient client;

    Hivemq3(Endpoint endpoint, String id) {
        Mqtt3ClientBuilder builder = MqttClient.builder().useMqttVersion3().identifier(id)
                .serverHost(endpoint.host()).serverPort(endpoint.port());
        if (endpoint.trust() != null) {
            builder = builder.sslConfig().trustManagerFactory(endpoint.trust()).applySslConfig();
        }
        client = builder.buildAsync();
        client.publishes(MqttGlobalPublishFilter.ALL, publish -> messages.add(new Message(
                publish.getTopic().toString(), publish.getPayloadAsBytes(), publish.getQos().getCode(),
                publish.isRetain(), Properties.NONE)));
    }

    @Override
    boolean connect(boolean kept) throws Exception {
        return client.connectWith().cleanSession(!kept).send().get(WAIT_SECONDS, TimeUnit.SECONDS)
                .isSessionPresent();
    }

    @Override
    List<Integer> subscribe(Map<String, Integer> filters) throws Exception {
        Mqtt3Subscribe subscribe = Mqtt3Subscribe.builder()
                .addSubscriptions(filters.entrySet().stream().map(filter -> Mqtt3Subscription.builder()
                        .topicFilter(filter.getKey()).qos(MqttQos.fromCode(filter.getValue())).build()))
                .build();
        Mqtt3SubAck suback;
        try {
            suback = client.subscribe(subscribe).get(WAIT_SECONDS, TimeUnit.SECONDS);
        } catch (ExecutionException refused) { // at least one filter
            suback = ((Mqtt3SubAckException) refused.getCause()).getMqttMessage();
        }
        return suback.getReturnCodes().stream().map(code -> code.getCode()).toList();
    }

    @Override
    List<Integer> unsubscribe(List<String> filters) throws Exception {
        Mqtt3Unsubscribe unsubscribe = Mqtt3Unsubscribe.builder()
                .addTopicFilters(filters.stream().map(MqttTopicFilter::of)).build();
        client.unsubscribe(unsubscribe).get(WAIT_SECONDS, TimeUnit.SECONDS);
        return List.of();
    }

    @Override
    CompletableFuture<?> publish(Message message) {
        return client.publish(Mqtt3Publish.builder().topic(message.topic()).payload(message.payload())
                .qos(MqttQos.fromCode(message.qos())).retain(message.retain()).build());
    }

    @Override
    void disconnect() throws Exception {
        client.disconnect().get(WAIT_SECONDS, TimeUnit.SECONDS);
    }

    @Override
    boolean isConnected() {
        return client.getState().isConnected();
    }
}
