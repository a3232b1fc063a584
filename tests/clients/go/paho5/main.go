// SPDX-License-Identifier: Apache-2.0

// Eclipse Paho's Go client for MQTT 5: paho5 HOST PORT
package main

import (
	"crypto/tls"
	"fmt"
	"net"
	"os"

	"github.com/eclipse/paho.golang/packets"
	"github.com/eclipse/paho.golang/paho"

	. "polylog.test/clients/checks"
)

// Connection is one client whose answers and messages are waited for.
type Connection struct {
	client   *paho.Client
	messages chan Message
	trouble  chan string
}

func newConnection(socket net.Conn, err error) *Connection {
	Done(err)
	connection := &Connection{messages: make(chan Message, 1000), trouble: make(chan string, 10)}
	connection.client = paho.NewClient(paho.ClientConfig{
		Conn: socket,
		Router: paho.NewSingleHandlerRouter(func(message *paho.Publish) {
			connection.messages <- Message{Topic: message.Topic, Payload: message.Payload, QoS: message.QoS,
				Retain: message.Retain, Packet: message.Properties}
		}),
		OnClientError: func(err error) { connection.trouble <- err.Error() },
		OnServerDisconnect: func(packet *paho.Disconnect) {
			connection.trouble <- fmt.Sprintf("DISCONNECT 0x%02x", packet.ReasonCode)
		},
		PacketTimeout: Wait,
	})
	return connection
}

func (c *Connection) connect(id string) {
	connack, err := c.client.Connect(Within(), &paho.Connect{ClientID: id, CleanStart: true, KeepAlive: 30})
	Done(err)
	Same([]interface{}{connack.ReasonCode, connack.SessionPresent}, []interface{}{byte(0), false})
}

func (c *Connection) subscribe(filters ...paho.SubscribeOptions) []byte {
	suback, err := c.client.Subscribe(Within(), &paho.Subscribe{Subscriptions: filters})
	Done(err)
	return suback.Reasons
}

func (c *Connection) publish(topic string, body []byte, qos byte, properties *paho.PublishProperties) {
	_, err := c.client.Publish(Within(),
		&paho.Publish{Topic: topic, Payload: body, QoS: qos, Properties: properties})
	Done(err)
}

func run() int {
	const base = "paho-go/v5"
	check := Checks{Client: "paho.golang v5"}
	var subscriber, publisher *Connection

	check.Check("connect", func() {
		subscriber = newConnection(net.DialTimeout("tcp", Address(), Wait))
		publisher = newConnection(net.DialTimeout("tcp", Address(), Wait))
		subscriber.connect("paho-go-v5-sub")
		publisher.connect("paho-go-v5-pub")
	})
	if check.Failed > 0 {
		return check.Failed
	}
	messages := subscriber.messages

	check.Check("subscribe with + and #", func() {
		Same(subscriber.subscribe(paho.SubscribeOptions{Topic: base + "/+/data", QoS: 2},
			paho.SubscribeOptions{Topic: base + "/deep/#", QoS: 1}), []byte{2, 1})
		for _, topic := range []string{"deep", "deep/a", "other", "x/y/data", "deep/a/b/c", "x/data"} {
			publisher.publish(base+"/"+topic, []byte(topic), 1, nil)
		}
		Same(TakeAnyOrder(messages, 4), []string{"deep", "deep/a", "deep/a/b/c", "x/data"})
		NothingMore(messages)
	})

	// What comes twice is met by the next check; the last of a QoS looks for more.
	for qos := byte(0); qos <= 2; qos++ {
		topic := fmt.Sprintf("%s/q%d/data", base, qos)
		for _, size := range Sizes {
			check.Check(fmt.Sprintf("QoS %d, %s", qos, size.Name), func() {
				publisher.publish(topic, Payload(size.Bytes), qos, nil)
				message := Next(messages)
				Same([]interface{}{message.Topic, message.QoS, message.Retain}, []interface{}{topic, qos, false})
				SamePayload(message.Payload, Payload(size.Bytes))
			})
		}
		check.Check(fmt.Sprintf("QoS %d, %d messages in order, each once", qos, Ordered), func() {
			for _, number := range Numbers() {
				publisher.publish(topic, []byte(number), qos, nil)
			}
			Same(Take(messages, Ordered), Numbers())
			NothingMore(messages)
		})
	}

	check.Check("QoS 2 published, QoS 0 granted: delivered with QoS 0", func() {
		Same(subscriber.subscribe(paho.SubscribeOptions{Topic: base + "/low", QoS: 0}), []byte{0})
		publisher.publish(base+"/low", []byte("x"), 2, nil)
		Same(Next(messages).QoS, byte(0))
	})

	check.Check("properties round trip", func() {
		text, expiry := byte(1), uint32(60)
		sent := &paho.PublishProperties{PayloadFormat: &text, MessageExpiry: &expiry,
			ContentType: "text/plain; charset=utf-8", ResponseTopic: "answers/here",
			CorrelationData: []byte{0, 1, 255},
			User: paho.UserProperties{{Key: "b", Value: "1"}, {Key: "a", Value: "2"}, {Key: "b", Value: "3"},
				{Key: "", Value: "empty name"}, {Key: "ü", Value: "€"}}}
		publisher.publish(base+"/p/data", []byte("grüße"), 1, sent)
		got := Next(messages).Packet.(*paho.PublishProperties)
		if got.MessageExpiry == nil || *got.MessageExpiry == 0 || *got.MessageExpiry > expiry {
			Fail("message expiry %v", got.MessageExpiry)
		}
		got.MessageExpiry = sent.MessageExpiry
		Same(*got, *sent)
	})

	check.Check("subscription identifier", func() {
		identifier := 268435455
		_, err := subscriber.client.Subscribe(Within(), &paho.Subscribe{
			Subscriptions: []paho.SubscribeOptions{{Topic: base + "/id", QoS: 1}},
			Properties:    &paho.SubscribeProperties{SubscriptionIdentifier: &identifier}})
		Done(err)
		publisher.publish(base+"/id", []byte("x"), 1, nil)
		Same(Next(messages).Packet.(*paho.PublishProperties).SubscriptionIdentifier, &identifier)
	})

	check.Check("no local", func() {
		subscriber.subscribe(paho.SubscribeOptions{Topic: base + "/mine", QoS: 1, NoLocal: true})
		subscriber.publish(base+"/mine", []byte("own"), 1, nil)
		publisher.publish(base+"/mine", []byte("other"), 1, nil)
		Same(Take(messages, 1), []string{"other"})
		NothingMore(messages)
	})

	check.Check("$share: its members take turns", func() {
		share := paho.SubscribeOptions{Topic: "$share/g/" + base + "/s", QoS: 1}
		Same(subscriber.subscribe(share), []byte{1})
		Same(publisher.subscribe(share), []byte{1})
		for _, body := range []string{"x", "y", "z"} {
			publisher.publish(base+"/s", []byte(body), 1, nil)
		}
		Same(Take(messages, 2), []string{"x", "z"})
		Same(Take(publisher.messages, 1), []string{"y"})
		_, err := publisher.client.Unsubscribe(Within(), &paho.Unsubscribe{Topics: []string{share.Topic}})
		Done(err)
		publisher.publish(base+"/s", []byte("mine"), 1, nil)
		Same(Take(messages, 1), []string{"mine"})
	})

	check.Check("unsubscribe", func() {
		unsuback, _ := subscriber.client.Unsubscribe(Within(),
			&paho.Unsubscribe{Topics: []string{base + "/+/data", base + "/never"}})
		if unsuback == nil {
			Fail("no UNSUBACK")
		}
		Same(unsuback.Reasons, []byte{0, 0x11})
		publisher.publish(base+"/x/data", []byte("x"), 1, nil)
		publisher.publish(base+"/deep/still", []byte("y"), 1, nil)
		Same(Take(messages, 1), []string{"y"})
		NothingMore(messages)
	})

	check.Check("disconnect", func() {
		for _, connection := range []*Connection{subscriber, publisher} {
			if len(connection.trouble) > 0 {
				Fail("%s", <-connection.trouble)
			}
			Done(connection.client.Disconnect(&paho.Disconnect{ReasonCode: 0}))
		}
	})

	check.Check("TLS: 1 MiB there and back", func() {
		address, config := TLS()
		socket, err := tls.Dial("tcp", address, config)
		connection := newConnection(packets.NewThreadSafeConn(socket), err)
		connection.connect("paho-go-v5-tls")
		connection.subscribe(paho.SubscribeOptions{Topic: base + "/tls", QoS: 1})
		connection.publish(base+"/tls", Payload(1<<20), 1, nil)
		SamePayload(Next(connection.messages).Payload, Payload(1<<20))
		Done(connection.client.Disconnect(&paho.Disconnect{ReasonCode: 0}))
	})
	return check.Failed
}

func main() {
	if run() > 0 {
		os.Exit(1)
	}
}
