//! Parses `database.url`, in the forms that PostgreSQL's own programs accept.
//!
//! A parameter is supported, or it is harmless and has no effect, or it is an error that names the parameter. A parameter
//! that changes the protection of the connection is never ignored.

use std::fmt;

use sqlx::postgres::PgConnectOptions;

/// The servers of `database.url`, in its order.
#[derive(Clone)]
pub struct DatabaseServers {
    /// At least one.
    pub(crate) hosts: Vec<PgConnectOptions>,
    /// The role that a server must have.
    pub(crate) role: Option<ServerRole>,
    /// In seconds.
    pub(super) connect_timeout: Option<u64>,
}

/// `target_session_attrs`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ServerRole {
    /// Transactions can write.
    ReadWrite,
    /// Not a standby.
    Primary,
}

impl From<PgConnectOptions> for DatabaseServers {
    fn from(host: PgConnectOptions) -> Self {
        Self { hosts: vec![host], role: None, connect_timeout: None }
    }
}

/// Without the passwords.
impl fmt::Debug for DatabaseServers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let hosts = self.hosts.iter().map(PgConnectOptions::get_host);
        f.debug_struct("DatabaseServers")
            .field("hosts", &hosts.collect::<Vec<_>>())
            .field("role", &self.role)
            .field("connect_timeout", &self.connect_timeout)
            .finish()
    }
}

const FORM: &str =
    "must be like postgres://user:password@host:5432/name; percent-encode special characters in the password";

/// Why a URL is not usable. Contains no value that may be part of a password.
type Error = String;

struct Host {
    /// A name, an address, or the directory of a socket. Empty: sqlx's default.
    name: String,
    port: Option<u16>,
}

impl DatabaseServers {
    pub(super) fn parse(url: &str) -> Result<Self, Error> {
        let rest = url.strip_prefix("postgres://").or_else(|| url.strip_prefix("postgresql://"));
        let (rest, query) = rest.map(|rest| rest.split_once('?').unwrap_or((rest, ""))).ok_or(FORM)?;
        let (authority, database) = rest.split_once('/').unwrap_or((rest, ""));
        // A password with an unescaped `?`, `#` or `/`.
        if query.contains('@') || rest.contains('#') || database.contains(['@', '/']) {
            return Err(FORM.to_owned());
        }
        let (user, hosts) = authority.rsplit_once('@').unwrap_or(("", authority));
        let (user, password) = user.split_once(':').unwrap_or((user, ""));
        let mut given = Given { hosts: hosts_of(hosts)?, ..Given::default() };
        for (name, value) in [("user", user), ("password", password), ("dbname", database)] {
            if !value.is_empty() {
                given.pass_on(name, &decode(value)?);
            }
        }
        let mut pairs: Vec<_> = query.split('&').filter(|pair| !pair.is_empty()).collect();
        // The hosts come first, because `port` sets the ports of the hosts that were read before.
        pairs.sort_by_key(|pair| !pair.starts_with("host="));
        let has_password = pairs.iter().any(|pair| pair.starts_with("password="));
        for pair in pairs {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let read = given.read(&decode(name)?, &decode(value)?);
            // An unknown name may be part of a password with an unescaped `&`, so the error must not show it.
            let may_be_secret = has_password || !pair.contains('=');
            read.map_err(
                |error| if may_be_secret && error.ends_with(UNKNOWN) { FORM.to_owned() } else { error },
            )?;
        }
        given.set_tls()?;
        let hosts = given.hosts.iter().map(|host| given.options(host)).collect::<Result<Vec<_>, _>>()?;
        // Recording needs a server that accepts writes.
        let role = given.role.or((hosts.len() > 1).then_some(ServerRole::ReadWrite));
        Ok(Self { hosts, role, connect_timeout: given.connect_timeout })
    }
}

/// Splits `h1:5432,[::1],h3`.
fn hosts_of(text: &str) -> Result<Vec<Host>, Error> {
    let host = |text: &str| {
        let (name, port) = match text.strip_prefix('[') {
            Some(rest) => {
                let (address, port) = rest.split_once(']').ok_or(FORM)?;
                (address, if port.is_empty() { "" } else { port.strip_prefix(':').ok_or(FORM)? })
            }
            None => text.split_once(':').unwrap_or((text, "")),
        };
        Ok(Host { name: decode(name)?, port: port_of(port)? })
    };
    text.split(',').map(host).collect()
}

fn port_of(text: &str) -> Result<Option<u16>, Error> {
    if text.is_empty() { Ok(None) } else { text.parse().map(Some).map_err(|_| FORM.to_owned()) }
}

/// Decodes percent-encoding. A `+` stays, as in PostgreSQL's own programs.
fn decode(text: &str) -> Result<String, Error> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(if byte == b'%' {
            let mut digit = || char::from(rest.next()?).to_digit(16);
            let code = digit().zip(digit()).and_then(|(high, low)| u8::try_from(high * 16 + low).ok());
            code.filter(|code| *code != 0).ok_or(FORM)?
        } else {
            byte
        });
    }
    String::from_utf8(bytes).map_err(|_| FORM.to_owned())
}

/// What the URL contains.
#[derive(Default)]
struct Given {
    hosts: Vec<Host>,
    role: Option<ServerRole>,
    connect_timeout: Option<u64>,
    ssl_mode: Option<String>,
    ssl_root_cert: Option<String>,
    /// The parameters that sqlx reads.
    passed_on: Vec<(String, String)>,
}

impl Given {
    fn pass_on(&mut self, name: &str, value: &str) {
        self.passed_on.push((name.to_owned(), value.to_owned()));
    }

    fn read(&mut self, name: &str, value: &str) -> Result<(), Error> {
        match (name, value) {
            ("host", _) => {
                let port = self.hosts.first().and_then(|host| host.port);
                let host = |name: &str| Host { name: name.to_owned(), port };
                self.hosts = value.split(',').map(host).collect();
            }
            ("port", _) => {
                let ports = value.split(',').map(port_of).collect::<Result<Vec<_>, _>>()?;
                if ports.len() != 1 && ports.len() != self.hosts.len() {
                    return Err("parameter port: give one port, or one for each host".to_owned());
                }
                for (host, port) in self.hosts.iter_mut().zip(ports.iter().cycle()) {
                    host.port = *port;
                }
            }
            ("user" | "password" | "dbname" | "application_name" | "options", _) => self.pass_on(name, value),
            ("sslcert" | "ssl-cert", _) => self.pass_on("sslcert", value),
            ("sslkey" | "ssl-key", _) => self.pass_on("sslkey", value),
            ("sslmode" | "ssl-mode", _) => self.ssl_mode = Some(value.to_ascii_lowercase()),
            ("sslrootcert" | "ssl-root-cert" | "ssl-ca", _) => self.ssl_root_cert = Some(value.to_owned()),
            ("connect_timeout", _) => {
                let seconds: u64 =
                    value.parse().map_err(|_| "parameter connect_timeout: give whole seconds")?;
                self.connect_timeout = Some(seconds).filter(|seconds| *seconds > 0);
            }
            ("target_session_attrs", "any") => self.role = None,
            ("target_session_attrs", "read-write") => self.role = Some(ServerRole::ReadWrite),
            ("target_session_attrs", "primary") => self.role = Some(ServerRole::Primary),
            // Parameters of other libraries for prepared statements and poolers: every value is accepted, without effect.
            // Of the other parameters, the listed values describe what the receiver does anyway.
            (
                "pgbouncer"
                | "prepareThreshold"
                | "prepared_statement_cache_size"
                | "statement-cache-capacity"
                | "statement_cache_size",
                _,
            )
            | ("channel_binding" | "gssencmode", "disable" | "prefer")
            | ("client_encoding", "UTF8" | "auto" | "utf8")
            | ("load_balance_hosts", "disable")
            | ("ssl_min_protocol_version", "TLSv1" | "TLSv1.1" | "TLSv1.2")
            | ("sslcompression", "0")
            | ("sslnegotiation", "postgres")
            | ("sslsni", "1") => {}
            _ => return Err(refusal(name)),
        }
        Ok(())
    }

    /// As in PostgreSQL's own programs: a root certificate is also checked with `require`, and the system's certificates
    /// need `verify-full`.
    fn set_tls(&mut self) -> Result<(), Error> {
        let mode = match (self.ssl_mode.as_deref(), self.ssl_root_cert.as_deref()) {
            (None | Some("verify-full"), Some("system")) => Some("verify-full"),
            (_, Some("system")) => {
                return Err("parameter sslrootcert=system needs sslmode=verify-full".to_owned());
            }
            (Some("no-verify"), _) => Some("require"),
            (Some("require"), Some(_)) => Some("verify-ca"),
            (Some(mode @ ("disable" | "allow" | "prefer" | "require" | "verify-ca" | "verify-full")), _) => {
                Some(mode)
            }
            (None, _) => None,
            (Some(_), _) => {
                return Err(
                    "parameter sslmode: use disable, allow, prefer, require, no-verify, verify-ca or \
                            verify-full"
                        .to_owned(),
                );
            }
        };
        if let Some(mode) = mode.map(str::to_owned) {
            self.pass_on("sslmode", &mode);
        }
        // Without a file, sqlx uses the system's certificates.
        if let Some(file) = self.ssl_root_cert.take().filter(|file| file != "system") {
            self.pass_on("sslrootcert", &file);
        }
        Ok(())
    }

    fn options(&self, host: &Host) -> Result<PgConnectOptions, Error> {
        let mut query = form_urlencoded::Serializer::new(String::new());
        if !host.name.is_empty() {
            query.append_pair("host", &host.name);
        } else if self.hosts.len() > 1 {
            return Err(FORM.to_owned());
        }
        if let Some(port) = host.port {
            query.append_pair("port", &port.to_string());
        }
        query.extend_pairs(&self.passed_on);
        format!("postgres:///?{}", query.finish()).parse().map_err(|_| FORM.to_owned())
    }
}

/// The end of the error for an unknown parameter.
const UNKNOWN: &str = "it is unknown; remove it";

/// The error for a parameter, or a value of it, that is not supported.
fn refusal(name: &str) -> Error {
    let remedy = match name {
        "channel_binding" => {
            "only prefer and disable are supported; remove it, and use sslmode=verify-full against an attacker between \
             receiver and server"
        }
        "target_session_attrs" => "use read-write, primary or any: the receiver must write",
        "gssencmode" => "encryption with GSSAPI is not supported; use sslmode=verify-full",
        "sslcrl" | "sslcrldir" => "revocation lists are not supported; remove it if you accept that",
        "sslpassword" => "an encrypted key is not supported; use a key without a password",
        "ssl" | "requiressl" => "use sslmode=require, or sslmode=verify-full to check the certificate",
        "sslnegotiation" => "only postgres is supported; remove it",
        "ssl_min_protocol_version" | "ssl_max_protocol_version" => {
            "TLS 1.2 and 1.3 are used; remove it, and limit the version in the server's settings"
        }
        "require_auth" | "requirepeer" => "the check is not supported; remove it if you accept that",
        "hostaddr" => "put the address in the place of the host",
        "load_balance_hosts" => "hosts are tried in their order; remove it",
        "passfile" => "set the environment variable PGPASSFILE",
        "service" | "servicefile" => "service files are not read; write host, user and database into the URL",
        "connection_limit" | "pool_size" | "pool_max_conns" | "max_connections" => {
            "use recorder.connections and admin.read_connections"
        }
        "pool_timeout" | "socket_timeout" | "tcp_user_timeout" => {
            "use database.connect_timeout and database.statement_timeout"
        }
        "statement_timeout" => "use database.statement_timeout",
        "schema" | "search_path" | "currentSchema" => "use ALTER ROLE … SET search_path = …",
        name if name.starts_with("keepalives") => {
            "remove it: time limits find lost connections (database.statement_timeout)"
        }
        name if name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-.[]".contains(&byte)) => UNKNOWN,
        _ => return FORM.to_owned(),
    };
    format!("parameter {name}: {remedy}")
}

#[cfg(test)]
mod tests {
    use sqlx::postgres::PgSslMode;

    use super::*;

    fn parse(url: &str) -> DatabaseServers {
        DatabaseServers::parse(url).unwrap_or_else(|error| panic!("{url}: {error}"))
    }

    fn only(url: &str) -> PgConnectOptions {
        let mut hosts = parse(url).hosts;
        assert_eq!(hosts.len(), 1, "{url}");
        hosts.remove(0)
    }

    fn addresses(url: &str) -> Vec<(String, u16)> {
        let address = |host: &PgConnectOptions| (host.get_host().to_owned(), host.get_port());
        parse(url).hosts.iter().map(address).collect()
    }

    #[test]
    fn hosts_are_names_addresses_and_sockets() {
        let at = |name: &str, port| (name.to_owned(), port);
        assert_eq!(addresses("postgres://u@h:1/d"), [at("h", 1)]);
        assert_eq!(addresses("postgresql://u@[::1]:5433/d"), [at("::1", 5433)]);
        assert_eq!(
            addresses("postgres://u@h1:1,[fe80::2]:2,h3:3/d"),
            [at("h1", 1), at("fe80::2", 2), at("h3", 3)]
        );
        assert_eq!(addresses("postgres://u@/d?host=h1,h2&port=1,2"), [at("h1", 1), at("h2", 2)]);
        assert_eq!(addresses("postgres://u@h1,h2/d?port=7"), [at("h1", 7), at("h2", 7)]);
        assert_eq!(addresses("postgres://u@/d?port=1,2&host=h1,h2"), [at("h1", 1), at("h2", 2)]);
        for url in [
            "postgres://u:p@/d?host=/cloudsql/p:r:i",
            "postgres:///d?user=u&host=/cloudsql/p:r:i",
            "postgres://u@%2Fcloudsql%2Fp:r:i/d".replace(":r:i", "%3Ar%3Ai").as_str(),
        ] {
            let options = only(url);
            assert_eq!(options.get_socket().unwrap().to_str(), Some("/cloudsql/p:r:i"), "{url}");
            assert_eq!((options.get_username(), options.get_database()), ("u", Some("d")), "{url}");
        }
    }

    #[test]
    fn special_characters_are_percent_encoded() {
        let options = only("postgres://me%40corp:x@h/a%20b?application_name=a+b%26c&options=-c%20geqo%3Doff");
        assert_eq!((options.get_username(), options.get_database()), ("me@corp", Some("a b")));
        assert_eq!(options.get_application_name(), Some("a+b&c"));
        assert_eq!(options.get_options(), Some("-c geqo=off"));
    }

    #[test]
    fn several_hosts_need_one_that_accepts_writes() {
        let role = |url| parse(url).role;
        assert_eq!(role("postgres://h/d"), None);
        assert_eq!(role("postgres://h/d?target_session_attrs=any"), None);
        assert_eq!(role("postgres://h/d?target_session_attrs=primary"), Some(ServerRole::Primary));
        assert_eq!(role("postgres://h1,h2/d"), Some(ServerRole::ReadWrite));
        assert_eq!(role("postgres://h1,h2/d?target_session_attrs=any"), Some(ServerRole::ReadWrite));
        assert_eq!(role("postgres://h1,h2/d?target_session_attrs=primary"), Some(ServerRole::Primary));
    }

    #[test]
    fn tls_is_never_weaker_than_the_url() {
        let mode = |query: &str| only(&format!("postgres://h/d?{query}")).get_ssl_mode();
        for (query, expected) in [
            ("sslmode=no-verify", PgSslMode::Require),
            ("sslmode=require", PgSslMode::Require),
            ("sslmode=require&sslrootcert=/ca.pem", PgSslMode::VerifyCa),
            ("sslmode=verify-full&sslrootcert=/ca.pem", PgSslMode::VerifyFull),
            ("sslmode=verify-full&sslrootcert=system", PgSslMode::VerifyFull),
            ("sslrootcert=system", PgSslMode::VerifyFull),
        ] {
            assert!(matches!((mode(query), expected), (a, b) if a as u8 == b as u8), "{query}");
        }
    }

    #[test]
    fn parameters_without_effect_are_accepted() {
        let query = "pgbouncer=true&prepareThreshold=0&statement-cache-capacity=0&channel_binding=prefer&gssencmode=disable";
        only(&format!("postgres://h/d?{query}"));
        assert_eq!(parse("postgres://h/d?connect_timeout=7").connect_timeout, Some(7));
        assert_eq!(parse("postgres://h/d?connect_timeout=0").connect_timeout, None);
    }

    #[test]
    fn other_parameters_are_refused_by_name() {
        for (parameter, remedy) in [
            ("channel_binding=require", "sslmode=verify-full"),
            ("target_session_attrs=standby", "read-write"),
            ("gssencmode=require", "sslmode=verify-full"),
            ("sslmode=required", "no-verify"),
            ("sslmode=require&sslrootcert=system", "verify-full"),
            ("ssl=true", "sslmode=require"),
            ("sslcrl=/crl", "remove it"),
            ("require_auth=scram-sha-256", "remove it"),
            ("connection_limit=1", "recorder.connections"),
            ("pool_timeout=0", "database.connect_timeout"),
            ("keepalives_idle=30", "remove it"),
            ("schema=public", "ALTER ROLE"),
            ("statement_timeout=1", "database.statement_timeout"),
            ("colour=blue", "it is unknown; remove it"),
            ("connect_timeout=5s", "whole seconds"),
            ("port=1,2", "one for each host"),
        ] {
            let error = DatabaseServers::parse(&format!("postgres://u:hunter2@h/d?{parameter}")).unwrap_err();
            let name = parameter.rsplit('&').next().unwrap().split('=').next().unwrap();
            assert!(
                error.contains(&format!("parameter {name}")) && error.contains(remedy),
                "{parameter}: {error}"
            );
            assert!(!error.contains("hunter2"), "{error}");
        }
    }

    #[test]
    fn no_error_contains_a_password() {
        for url in [
            "postgres://u:hun?ter2@h/d",
            "postgres://u:hun#ter2@h/d",
            "postgres://u:hun/ter2@h/d",
            "postgres://u:12/ter2@h/d",
            "postgres://u:hun%ter2@h/d",
            "postgres://u:hunter2@h:port/d",
            "postgres://u:hunter2@[::1/d",
            "mysql://u:hunter2@h/d",
            "postgres://u:hunter2@h1,,h2/d",
            "postgres://u@h/d?password=abc&hunter2",
            "postgres://u@h/d?password=abc&hunter2=x",
            "postgres://u@h/d?hunter2",
        ] {
            assert_eq!(DatabaseServers::parse(url).unwrap_err(), FORM, "{url}");
            assert!(!format!("{:?}", DatabaseServers::parse("postgres://u:hunter2@h/d")).contains("hunter2"));
        }
    }
}
