//! Servers on NATS that are stopped in order and started again, one after the other, as for an update.

use std::collections::BTreeMap;
use std::time::Duration;

use crossdock_tests::{Nats, Servers, eventually};

use crate::orders::publish;

const PATIENCE: Duration = Duration::from_secs(90);

/// Notes each order it is given, when that was, and how often it was delivered; some take long.
const SERVICE: &str = r#"
import os, time
from crossdock import Context, consume

@consume("orders")
def ship(number: int, ctx: Context):
    line = f"{number} {ctx.message.attempt} {ctx.message.deliveries} {time.time():.3f} {os.getpid()}\n"
    note = os.open(NOTES, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.write(note, line.encode())
    os.close(note)
    time.sleep(3 if number % 25 == 0 else 0.02)
    ctx.publish("shipments", {"number": number})
"#;

#[tokio::test]
async fn given_three_servers_under_load_when_each_is_stopped_in_order_and_restarted_should_do_nothing_twice()
{
    let nats = Nats::cluster(3).await;
    let mut servers = Servers::start(env!("CARGO_BIN_EXE_crossdock"), &nats.url(), 3).await;
    let notes = servers.home().join("handled");
    servers.write("ship.py", &format!("NOTES = {:?}\n{SERVICE}", notes.display().to_string()));
    let _ =
        servers.bash(0, "crossdock topic create orders && crossdock topic create shipments").await.expect(0);
    let _ = servers.bash(0, "crossdock service deploy ship.py --wait 1m").await.expect(0);

    let mut number = 0;
    for stopping in 0..3 {
        // The gateway of the server after the one that goes stays.
        let gateway = servers.get((stopping + 1) % 3).gateway().clone();
        let numbers = number..number + 200;
        number = numbers.end;
        let publishing = tokio::spawn(async move {
            for number in numbers {
                publish(&gateway, number).await;
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        });
        tokio::time::sleep(Duration::from_millis(500)).await;
        servers.stop(stopping).await;
        servers.restart(stopping).await;
        publishing.await.expect("all to be published");
    }
    let handled = eventually("all to be handled", PATIENCE, || async {
        let text = std::fs::read_to_string(&notes).ok()?;
        let mut handled: BTreeMap<u32, Vec<String>> = BTreeMap::new();
        for line in text.lines() {
            let (of, rest) = line.split_once(' ')?;
            handled.entry(of.parse().ok()?).or_default().push(rest.to_owned());
        }
        (handled.len() >= number as usize).then_some(handled)
    })
    .await;
    let mut times = Vec::new();
    for (number, notes) in &handled {
        assert_eq!(notes.len(), 1, "{number} was handled more than once: {notes:?}");
        let mut words = notes[0].split(' ');
        assert_eq!(words.next(), Some("1"), "nothing has failed: {number} {notes:?}");
        times.extend(words.nth(1).and_then(|time| time.parse::<f64>().ok()));
    }
    times.sort_by(f64::total_cmp);
    let longest = times.windows(2).map(|pair| pair[1] - pair[0]).fold(0.0, f64::max);
    eprintln!("the longest time without an order being handled: {longest:.2} s");
    eventually("each to be shipped", PATIENCE, || async {
        (servers.get(0).admin().read_topic("shipments").await.len() == number as usize).then_some(())
    })
    .await;
    servers.stop_all().await;
}
