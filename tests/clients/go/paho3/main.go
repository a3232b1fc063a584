// SPDX-License-Identifier: Apache-2.0

// Eclipse Paho's Go client for MQTT 3.1 and 3.1.1: paho3 HOST PORT
package main

import (
	"fmt"
	"os"

	mqtt "github.com/eclipse/paho.mqtt.golang"

	. "polylog.test/clients/checks"
)

// Connection is one client whose answers and messages are waited for.
type Connection struct {
	client   mqtt.Client
	messages chan Message
	lost     chan error
}

func newConnection(version uint, id string, tls bool) *Connection {
	connection := &Connection{messages: make(chan Message, 1000), lost: make(chan error, 10)}
	options := mqtt.NewClientOptions().SetClientID(id)
	if tls {
		address, config := TLS()
		options.AddBroker("ssl://" + address).SetTLSConfig(config)
	} else {
		options.AddBroker("tcp://" + Address())
	}
	options.SetProtocolVersion(version).SetCleanSession(true).SetAutoReconnect(false)
	options.SetConnectTimeout(Wait)
	options.SetDefaultPublishHandler(func(_ mqtt.Client, message mqtt.Message) {
		connection.messages <- Message{Topic: message.Topic(), Payload: message.Payload(),
			QoS: message.Qos(), Retain: message.Retained()}
	})
	options.SetConnectionLostHandler(func(_ mqtt.Client, err error) { connection.lost <- err })
	connection.client = mqtt.NewClient(options)
	return connection
}

func await(token mqtt.Token) {
	if !token.WaitTimeout(Wait) {
		Fail("no answer within %v", Wait)
	}
	Done(token.Error())
}

func (c *Connection) subscribe(filters map[string]byte) map[string]byte {
	token := c.client.SubscribeMultiple(filters, nil)
	if !token.WaitTimeout(Wait) {
		Fail("no SUBACK within %v", Wait)
	}
	return token.(*mqtt.SubscribeToken).Result()
}

func (c *Connection) publish(topic string, body interface{}, qos byte) {
	await(c.client.Publish(topic, qos, false, body))
}

func run(version uint, label string) int {
	base := "paho-go/" + label
	check := Checks{Client: "paho.mqtt.golang " + label}
	subscriber := newConnection(version, "paho-go-sub", false)
	publisher := newConnection(version, "paho-go-pub", false)
	messages := subscriber.messages

	check.Check("connect", func() {
		for _, connection := range []*Connection{subscriber, publisher} {
			token := connection.client.Connect()
			await(token)
			Same(token.(*mqtt.ConnectToken).SessionPresent(), false)
		}
	})
	if check.Failed > 0 {
		return check.Failed
	}

	check.Check("subscribe with + and #", func() {
		filters := map[string]byte{base + "/+/data": 2, base + "/deep/#": 1}
		Same(subscriber.subscribe(filters), filters)
		for _, topic := range []string{"deep", "deep/a", "other", "x/y/data", "deep/a/b/c", "x/data"} {
			publisher.publish(base+"/"+topic, topic, 1)
		}
		Same(TakeAnyOrder(messages, 4), []string{"deep", "deep/a", "deep/a/b/c", "x/data"})
		NothingMore(messages)
	})

	// What comes twice is met by the next check; the last of a QoS looks for more.
	for qos := byte(0); qos <= 2; qos++ {
		topic := fmt.Sprintf("%s/q%d/data", base, qos)
		for _, size := range Sizes {
			check.Check(fmt.Sprintf("QoS %d, %s", qos, size.Name), func() {
				publisher.publish(topic, Payload(size.Bytes), qos)
				message := Next(messages)
				Same([]interface{}{message.Topic, message.QoS, message.Retain}, []interface{}{topic, qos, false})
				SamePayload(message.Payload, Payload(size.Bytes))
			})
		}
		check.Check(fmt.Sprintf("QoS %d, %d messages in order, each once", qos, Ordered), func() {
			tokens := []mqtt.Token{}
			for _, number := range Numbers() {
				tokens = append(tokens, publisher.client.Publish(topic, qos, false, number))
			}
			Same(Take(messages, Ordered), Numbers())
			for _, token := range tokens {
				await(token)
			}
			NothingMore(messages)
		})
	}

	check.Check("QoS 2 published, QoS 0 granted: delivered with QoS 0", func() {
		Same(subscriber.subscribe(map[string]byte{base + "/low": 0}), map[string]byte{base + "/low": 0})
		publisher.publish(base+"/low", "x", 2)
		Same(Next(messages).QoS, byte(0))
	})

	check.Check("$share: its members take turns", func() {
		share := map[string]byte{"$share/g/" + base + "/s": 1}
		Same(subscriber.subscribe(share), share)
		Same(publisher.subscribe(share), share)
		for _, body := range []string{"x", "y", "z"} {
			publisher.publish(base+"/s", body, 1)
		}
		Same(Take(messages, 2), []string{"x", "z"})
		Same(Take(publisher.messages, 1), []string{"y"})
		await(publisher.client.Unsubscribe("$share/g/" + base + "/s"))
		publisher.publish(base+"/s", "mine", 1)
		Same(Take(messages, 1), []string{"mine"})
	})

	check.Check("unsubscribe", func() {
		await(subscriber.client.Unsubscribe(base+"/+/data", base+"/never"))
		publisher.publish(base+"/x/data", "x", 1)
		publisher.publish(base+"/deep/still", "y", 1)
		Same(Take(messages, 1), []string{"y"})
		NothingMore(messages)
	})

	check.Check("disconnect", func() {
		for _, connection := range []*Connection{subscriber, publisher} {
			Same(connection.client.IsConnectionOpen(), true)
			connection.client.Disconnect(250)
			Same(len(connection.lost), 0)
		}
	})

	check.Check("TLS: 1 MiB there and back", func() {
		connection := newConnection(version, "paho-go-tls", true)
		await(connection.client.Connect())
		connection.subscribe(map[string]byte{base + "/tls": 1})
		connection.publish(base+"/tls", Payload(1<<20), 1)
		SamePayload(Next(connection.messages).Payload, Payload(1<<20))
		connection.client.Disconnect(250)
	})
	return check.Failed
}

func main() {
	if run(3, "v3.1")+run(4, "v3.1.1") > 0 {
		os.Exit(1)
	}
}
