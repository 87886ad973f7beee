// Go's database/sql: a pool with an idle connection, other traffic, and one query that is never answered.
package main

import (
	"database/sql"
	"os"
	"sync"
	"time"

	_ "github.com/go-sql-driver/mysql"
	_ "github.com/lib/pq"
)

func pool(driver, address string) *sql.DB {
	source := "postgres://postgres@" + address + "/postgres?sslmode=disable"
	if driver == "mysql" {
		source = "root@tcp(" + address + ")/test"
	}
	pool, err := sql.Open(driver, source)
	if err != nil {
		panic(err)
	}
	return pool
}

func query(pool *sql.DB, text string) {
	if _, err := pool.Exec(text); err != nil {
		panic(err)
	}
}

func main() {
	driver := os.Args[1]
	mute, healthy := pool(driver, os.Args[2]), pool(driver, os.Args[3])
	go func() {
		for {
			query(healthy, "select 1")
			time.Sleep(300 * time.Millisecond)
		}
	}()
	var both sync.WaitGroup
	for i := 0; i < 2; i++ {
		both.Add(1)
		go func() {
			query(mute, "select 1")
			both.Done()
		}()
	}
	both.Wait()
	time.Sleep(2 * time.Second)
	query(mute, "select 'hang'")
}
