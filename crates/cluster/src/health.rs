//! Whether a process serves.

use std::time::Duration;

use tokio::time::{Instant, sleep, timeout};
use tonic::transport::Endpoint;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

/// How long one look may take.
const LOOK: Duration = Duration::from_secs(2);
/// How long to wait between looks.
const PAUSE: Duration = Duration::from_millis(5);

/// Looks until the process at `endpoint` says SERVING, for at most `within`; then gives what the last look said.
pub async fn wait_serving(endpoint: &str, within: Duration) -> Result<(), String> {
    let deadline = Instant::now() + within;
    loop {
        let last = match timeout(LOOK, look(endpoint)).await {
            Ok(Ok(())) => return Ok(()),
            Ok(Err(why)) => why,
            Err(_) => "no answer".to_owned(),
        };
        if Instant::now() >= deadline {
            return Err(last);
        }
        sleep(PAUSE).await;
    }
}

async fn look(endpoint: &str) -> Result<(), String> {
    let endpoint = Endpoint::from_shared(endpoint.to_owned()).map_err(|error| error.to_string())?;
    let channel = endpoint.connect().await.map_err(|_| "it does not listen yet".to_owned())?;
    let request = HealthCheckRequest { service: String::new() };
    let answer =
        HealthClient::new(channel).check(request).await.map_err(|status| status.message().to_owned())?;
    match answer.into_inner().status() {
        ServingStatus::Serving => Ok(()),
        other => Err(format!("it says {}", other.as_str_name())),
    }
}
