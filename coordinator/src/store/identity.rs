//! What a data directory is, so that no other kind of data is ever taken for a coordinator's.

use std::path::Path;

use escrow_journal::storage::{Disk, durable_replace, read_all};
use serde::{Deserialize, Serialize};

use crate::error::CoordinatorError;

const FORMAT: u32 = 1;
const KIND: &str = "escrow-coordinator";

/// The content of `identity.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Identity {
    format: u32,
    kind: String,
    /// The partition whose log this is.
    pub(crate) partition: u16,
    /// The cluster that this coordinator belongs to: 32 hex digits. Participants serve one cluster only.
    pub(crate) cluster_id: String,
}

impl Identity {
    /// Reads the identity of a directory; an empty directory gets one. `wanted` is the cluster that it must belong to, if it is
    /// known.
    pub(crate) fn open(
        disk: &dyn Disk,
        dir: &Path,
        partition: u16,
        wanted: Option<&str>,
    ) -> Result<Self, CoordinatorError> {
        let path = dir.join("identity.json");
        let file_error = |source| CoordinatorError::File { path: path.clone(), source };
        let foreign = |why: String| CoordinatorError::Foreign { path: dir.to_owned(), why };
        if let Some(bytes) = read_all(disk, &path).map_err(file_error)? {
            let identity: Self = serde_json::from_slice(&bytes)
                .map_err(|error| foreign(format!("identity.json cannot be read ({error})")))?;
            if identity.kind != KIND {
                return Err(foreign(format!("it belongs to a '{}'", identity.kind)));
            }
            if identity.format != FORMAT {
                return Err(foreign(format!(
                    "it has format {}, this version knows {FORMAT}",
                    identity.format
                )));
            }
            if identity.partition != partition {
                return Err(foreign(format!("it holds partition {}, not {partition}", identity.partition)));
            }
            if let Some(wanted) = wanted.filter(|wanted| *wanted != identity.cluster_id) {
                return Err(foreign(format!("it belongs to cluster {}, not {wanted}", identity.cluster_id)));
            }
            return Ok(identity);
        }
        let left: Vec<String> = disk.list(dir).map_err(file_error)?;
        if let Some(stranger) =
            left.iter().find(|name| !matches!(name.as_str(), "lock" | "identity.json.tmp"))
        {
            return Err(foreign(format!("it has no identity.json, but holds '{stranger}'")));
        }
        let cluster_id = wanted.map_or_else(|| uuid::Uuid::new_v4().simple().to_string(), str::to_owned);
        let identity = Self { format: FORMAT, kind: KIND.into(), partition, cluster_id };
        let bytes = serde_json::to_vec_pretty(&identity).expect("plain data");
        durable_replace(disk, &path, &bytes).map_err(file_error)?;
        Ok(identity)
    }
}
