// Go's net/http: a pool with an idle connection, other traffic, and one request that is never answered.
package main

import (
	"io"
	"net/http"
	"os"
	"sync"
	"time"
)

func get(where, path string) {
	answer, err := http.Get("http://" + where + path)
	if err != nil {
		panic(err)
	}
	io.Copy(io.Discard, answer.Body)
	answer.Body.Close()
}

func main() {
	mute, healthy := os.Args[1], os.Args[2]
	go func() {
		for {
			get(healthy, "/")
			time.Sleep(300 * time.Millisecond)
		}
	}()
	var both sync.WaitGroup
	for _, path := range []string{"/a", "/b"} {
		both.Add(1)
		go func(path string) {
			get(mute, path)
			both.Done()
		}(path)
	}
	both.Wait()
	time.Sleep(2 * time.Second)
	get(mute, "/hang")
}
