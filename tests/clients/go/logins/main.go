// SPDX-License-Identifier: Apache-2.0

// How Azure's Go client for AMQP 1.0 comes in over TLS: logins HOST AMQPS_PORT, with the user of POLYLOG_USER and
// POLYLOG_PASSWORD, CA_FILE, and CLIENT_CERT and CLIENT_KEY (of CN=device7).
package main

import (
	"crypto/tls"
	"os"

	amqp "github.com/Azure/go-amqp"

	. "polylog.test/clients/checks"
)

func dial(kind amqp.SASLType, shown ...tls.Certificate) (*amqp.Conn, error) {
	_, config := TLS()
	config.Certificates = shown
	return amqp.Dial(Within(), "amqps://"+Address(), &amqp.ConnOptions{SASLType: kind, TLSConfig: config})
}

// A message goes to a queue and comes back.
func works(kind amqp.SASLType, shown ...tls.Certificate) {
	connection, err := dial(kind, shown...)
	Done(err)
	defer connection.Close()
	session, err := connection.NewSession(Within(), nil)
	Done(err)
	sender, err := session.NewSender(Within(), "go.logins", nil)
	Done(err)
	Done(sender.Send(Within(), amqp.NewMessage(Payload(1<<20)), nil))
	receiver, err := session.NewReceiver(Within(), "go.logins", nil)
	Done(err)
	message, err := receiver.Receive(Within(), nil)
	Done(err)
	SamePayload(message.GetData(), Payload(1<<20))
	Done(receiver.AcceptMessage(Within(), message))
}

func refused(kind amqp.SASLType) {
	connection, err := dial(kind)
	if err == nil {
		connection.Close()
		Fail("let in")
	}
}

func main() {
	check := Checks{Client: "go-amqp"}
	user, password := os.Getenv("POLYLOG_USER"), os.Getenv("POLYLOG_PASSWORD")
	check.Check("PLAIN over TLS, 1 MiB", func() { works(amqp.SASLTypePlain(user, password)) })
	check.Check("PLAIN: a wrong password", func() { refused(amqp.SASLTypePlain(user, "wrong")) })
	check.Check("EXTERNAL: the certificate is the user", func() {
		own, err := tls.LoadX509KeyPair(os.Getenv("CLIENT_CERT"), os.Getenv("CLIENT_KEY"))
		Done(err)
		works(amqp.SASLTypeExternal(""), own)
	})
	check.Check("EXTERNAL without a certificate", func() { refused(amqp.SASLTypeExternal("")) })
	check.Check("ANONYMOUS, where there are users", func() { refused(amqp.SASLTypeAnonymous()) })
	if check.Failed > 0 {
		os.Exit(1)
	}
}
