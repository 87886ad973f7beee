//! What shows why a server does not answer that rests, as far as the kernel can tell? Databases and runtimes have a command for it. Pure.

use super::{
    advice::{Advice, advice},
    chain::Other,
};

/// What is known of a server.
pub struct ServerProgram<'a> {
    /// Its process.
    pub pid: u32,
    /// Its name.
    pub comm: &'a str,
    /// Its command line: its title, where it has set one.
    pub cmdline: Option<&'a str>,
    /// The port that it is asked on, if that is known.
    pub port: Option<u16>,
}

impl<'a> ServerProgram<'a> {
    /// One that is waited for.
    pub fn of(other: &'a Other, port: Option<u16>) -> Self {
        Self { pid: other.pid, comm: &other.comm, cmdline: other.cmdline.as_deref(), port }
    }

    /// The name of its program: that of its executable, where a thread's name says something else.
    fn names(&self) -> impl Iterator<Item = &'a str> {
        let first = self.cmdline.and_then(|line| line.split_whitespace().next());
        let executable = first.map(|word| word.trim_end_matches(':').rsplit('/').next().unwrap_or(word));
        [Some(self.comm), executable].into_iter().flatten()
    }

    fn is_called(&self, name: &str) -> bool {
        self.names().any(|of| of == name)
    }
}

/// The command that shows what it does for its clients, if its program has one.
pub fn inside(server: &ServerProgram<'_>) -> Option<Advice> {
    let ServerProgram { pid, port, .. } = *server;
    let at = |option: &str, usual: u16| match port {
        Some(port) if port != usual => format!(" {option} {port}"),
        _ => String::new(),
    };
    if server.is_called("postgres") {
        let waits = server.cmdline.is_some_and(|title| title.ends_with(" waiting"));
        let reason = match waits {
            true => "names the backends that hold the lock it waits for, by its title",
            false => "names the backends that hold a lock it waits for, if it does",
        };
        return Some(advice(
            format!("psql{} -c 'SELECT pg_blocking_pids({pid})'", at("-p", 5432)),
            &format!("as the database's administrator: {reason}; pg_stat_activity has its query"),
        ));
    }
    if server.is_called("mariadbd") {
        let port = at("-P", 3306);
        return Some(advice(
            format!(
                "mariadb{port} -e 'SELECT * FROM information_schema.innodb_lock_waits; SHOW FULL PROCESSLIST'"
            ),
            "shows which transaction waits for which, and every connection's query",
        ));
    }
    if server.is_called("mysqld") {
        let port = at("-P", 3306);
        return Some(advice(
            format!("mysql{port} -e 'SELECT * FROM sys.innodb_lock_waits; SHOW FULL PROCESSLIST'"),
            "shows which transaction waits for which, and every connection's query",
        ));
    }
    for (program, client) in [("redis-server", "redis-cli"), ("valkey-server", "valkey-cli")] {
        if server.is_called(program) {
            return Some(advice(
                format!("{client}{} CLIENT LIST", at("-p", 6379)),
                "shows each client's last command, and who is blocked in one",
            ));
        }
    }
    if server.is_called("java") {
        return Some(advice(
            format!("jcmd {pid} Thread.print"),
            "as its user: shows where each of its threads is, and which lock it waits for",
        ));
    }
    let is_script = |name: &str| ["python", "php", "ruby"].iter().any(|language| name.starts_with(language));
    if server.names().any(is_script) {
        return Some(advice(
            format!("tracer stack {pid}"),
            "shows the line of its program that each of its threads is in",
        ));
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_program_has_a_command_of_its_own() {
        let command = |comm: &str, cmdline: &str, port: Option<u16>| {
            let server = ServerProgram { pid: 812, comm, cmdline: Some(cmdline), port };
            inside(&server).map(|advice| advice.command).unwrap_or_default()
        };
        for (comm, cmdline, port, begins) in [
            (
                "postgres",
                "postgres: app shop 10.0.0.1(41222) INSERT waiting",
                None,
                "psql -c 'SELECT pg_block",
            ),
            ("postgres", "postgres: app shop [local] idle", Some(5433), "psql -p 5433 -c"),
            ("mariadbd", "/usr/sbin/mariadbd", Some(3306), "mariadb -e"),
            ("connection", "/usr/sbin/mysqld", Some(3307), "mysql -P 3307 -e"),
            (
                "redis-server",
                "/usr/bin/redis-server 127.0.0.1:6380",
                Some(6380),
                "redis-cli -p 6380 CLIENT LIST",
            ),
            ("java", "java -jar app.jar", Some(8080), "jcmd 812 Thread.print"),
            ("gunicorn", "/usr/bin/python3 /usr/bin/gunicorn app", None, "tracer stack 812"),
            ("nginx", "nginx: worker process", Some(80), ""),
        ] {
            let command = command(comm, cmdline, port);
            assert!(
                command.starts_with(begins) && command.is_empty() == begins.is_empty(),
                "{comm}: {command}"
            );
        }
    }

    #[test]
    fn a_title_that_says_so_is_believed() {
        let server = ServerProgram {
            pid: 812,
            comm: "postgres",
            cmdline: Some("postgres: app shop [local] UPDATE waiting"),
            port: None,
        };
        let reason = inside(&server).expect("it has one").reason;
        assert!(reason.contains("by its title"), "{reason}");
    }
}
