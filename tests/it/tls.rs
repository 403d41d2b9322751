//! TLS to the sender's API.

use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use serde_json::Value;
use tempfile::TempDir;
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};

use crate::support::postgres::{new_database, url};
use crate::support::process::{Process, program};
use crate::support::sender::{KEY, SECRET, stand_in, trigger, unused_address, webhook_url};
use crate::support::wait::within;

/// A server with TLS for `localhost` that forwards to `target`. Returns its base address, and the certificate of the
/// authority that signed its certificate.
async fn tls_in_front_of(target: String) -> (String, String) {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.distinguished_name.push(DnType::CommonName, "an authority of the test");
    let key = KeyPair::generate().unwrap();
    let authority = params.self_signed(&key).unwrap().pem();
    let issuer = Issuer::new(params, key);
    let key = KeyPair::generate().unwrap();
    let certificate =
        CertificateParams::new(vec!["localhost".to_owned()]).unwrap().signed_by(&key, &issuer).unwrap();
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
    let provider = Arc::new(tokio_rustls::rustls::crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let config = config.with_no_client_auth().with_single_cert(vec![certificate.der().clone()], key).unwrap();
    let (acceptor, listener) =
        (TlsAcceptor::from(Arc::new(config)), TcpListener::bind("127.0.0.1:0").await.unwrap());
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((connection, _)) = listener.accept().await {
            let (acceptor, target) = (acceptor.clone(), target.clone());
            tokio::spawn(async move {
                let mut connection = acceptor.accept(connection).await?;
                copy_bidirectional(&mut connection, &mut TcpStream::connect(target).await?).await
            });
        }
    });
    (format!("https://localhost:{port}"), authority)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_certificate_of_the_api_is_verified_with_the_authorities_of_the_system() {
    let (address, database, stand_in) = (unused_address(), new_database().await, stand_in(|_| {}).await);
    let target = stand_in.base_url().strip_prefix("http://").unwrap().to_owned();
    let (base_url, authority) = tls_in_front_of(target).await;
    stand_in.execute(&trigger("w", &webhook_url(&address), serde_json::json!({ "lose": true })));
    within(stand_in.deliveries_finished()).await;
    let dir = TempDir::new().unwrap();
    let (own, other) = (dir.path().join("own.pem"), dir.path().join("other.pem"));
    std::fs::write(&own, authority).unwrap();
    let unrelated = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    std::fs::write(&other, unrelated.cert.pem()).unwrap();

    for (authorities, is_trusted) in [(&other, false), (&own, true)] {
        let receiver = Process::start(
            program(dir.path())
                .env("DATABASE_URL", url(&database))
                .env("RECEIVER__HTTP__LISTEN", &address)
                .env("RECEIVER__AUTH__WEBHOOK_SECRETS", SECRET)
                .env("RECEIVER__EACHLABS__API_KEY", KEY)
                .env("RECEIVER__EACHLABS__BASE_URL", &base_url)
                .env("RECEIVER__EACHLABS__WEBHOOK_URL", webhook_url(&address))
                .env("RECEIVER__RECONCILE__ENABLED", "false")
                .env("SSL_CERT_FILE", authorities),
        );
        let requests = stand_in.requests();
        let run = format!("http://{}/api/v1/reconcile?since=1h", receiver.admin);
        let answer = within(reqwest::Client::new().post(run).send()).await.unwrap().text().await.unwrap();
        let last: Value = serde_json::from_str(answer.lines().last().unwrap()).unwrap();
        if is_trusted {
            assert_eq!((&last["type"], last["checked"].as_u64()), (&"done".into(), Some(1)), "{answer}");
        } else {
            let error = last["error"].as_str().unwrap();
            assert!(error.contains("is not trusted (UnknownIssuer)"), "{error}");
            assert!(error.contains("SSL_CERT_FILE") && error.contains("eachlabs.base_url"), "{error}");
            assert_eq!(stand_in.requests(), requests, "the key was not sent");
        }
        receiver.terminate();
    }
}
