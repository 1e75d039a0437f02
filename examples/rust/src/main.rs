//! Counts primes by a sieve and checks the count against the known number of primes below powers of ten.

use lambda_runtime::{Error, LambdaEvent, service_fn};
use serde_json::{Value, json};

/// The number of primes below 10, 100, 1000, ... (OEIS A006880).
const KNOWN: [(usize, usize); 6] =
    [(10, 4), (100, 25), (1_000, 168), (10_000, 1_229), (100_000, 9_592), (1_000_000, 78_498)];

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Error> {
    lambda_runtime::run(service_fn(handle)).await
}

async fn handle(event: LambdaEvent<Value>) -> Result<Value, Error> {
    let below = event.payload["below"].as_u64().unwrap_or(100_000).min(10_000_000) as usize;
    let primes = count_primes(below);
    if let Some((_, known)) = KNOWN.iter().find(|(limit, _)| *limit == below)
        && *known != primes
    {
        return Err(format!("found {primes} primes below {below}, there are {known}").into());
    }
    Ok(json!({ "below": below, "primes": primes, "request_id": event.context.request_id }))
}

fn count_primes(below: usize) -> usize {
    let mut composite = vec![false; below];
    let mut count = 0;
    for number in 2..below {
        if composite[number] {
            continue;
        }
        count += 1;
        for multiple in (number * number..below).step_by(number) {
            composite[multiple] = true;
        }
    }
    count
}
