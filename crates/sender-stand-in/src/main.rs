//! `sender-stand-in [ADDRESS]`: runs the stand-in until Ctrl-C. The key is `stand-in-key`.
//!
//! `sender-stand-in demo PROGRAM`: also starts the receiver `PROGRAM`, and sends webhooks to it ([`demo_command`]).

mod demo_command;

use std::error::Error;
use std::io::Write;

use sender_stand_in::{Options, StandIn};

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    if let [command, program] = &*arguments
        && command == "demo"
    {
        if let Err(error) = demo_command::run(program).await {
            eprintln!("{error}");
            std::process::exit(1);
        }
        return Ok(());
    }
    let address = arguments.first().map_or("127.0.0.1:8090", String::as_str);
    let Ok(address) = address.parse() else {
        eprintln!("Usage: sender-stand-in [ADDRESS:PORT]\n       sender-stand-in demo PROGRAM");
        std::process::exit(2);
    };
    let options = Options::default();
    let key = options.api_key.clone();
    let stand_in = StandIn::start(address, options).await?;
    let (base_url, older) = (stand_in.base_url(), stand_in.older_base_url());
    let mut out = std::io::stdout();
    writeln!(out, "{base_url} behaves like https://api.eachlabs.ai, and {older} like the older host.")?;
    writeln!(
        out,
        "Trigger an execution:\n  curl {base_url}/v1/workflows/trigger/w/1 -H 'X-API-Key: {key}' -H 'Content-Type: \
         application/json' \\\n    -d '{{\"inputs\":{{}},\"webhook_url\":\"http://127.0.0.1:8080/webhooks/workflow-completed\"}}'"
    )?;
    tokio::signal::ctrl_c().await?;
    Ok(())
}
