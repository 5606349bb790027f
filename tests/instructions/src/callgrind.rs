//! Runs one operation in a process of its own under valgrind, and reads how many instructions were counted.

use std::path::Path;
use std::process::Command;

use crate::meter::{Counted, WATCHED};

/// glibc chooses its copies by processor; and a copy by one instruction, however long, counts as one for each byte. So the plainest
/// are used, on every machine.
const PLAIN_COPIES: &str = "glibc.cpu.hwcaps=-AVX_Fast_Unaligned_Load,-AVX2,-ERMS,-FSRM\
                            :glibc.cpu.x86_rep_movsb_threshold=1099511627776\
                            :glibc.cpu.x86_rep_stosb_threshold=1099511627776";

/// What came of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Count {
    /// How much was done.
    pub counted: Counted,
    /// In how many instructions.
    pub instructions: u64,
}

/// The line that the process under valgrind prints.
pub fn report(counted: Counted) -> String {
    format!("counted {} {}", counted.rows, counted.batch)
}

fn read_report(output: &str) -> Option<Counted> {
    let mut words = output.lines().find_map(|line| line.strip_prefix("counted "))?.split(' ');
    let mut next = || words.next()?.parse().ok();
    Some(Counted { rows: next()?, batch: next()? })
}

/// From what callgrind says in the end: `==123== Collected : 456`.
fn read_instructions(output: &str) -> Option<u64> {
    let line = output.lines().find_map(|line| line.split_once("Collected :"))?;
    line.1.trim().parse().ok()
}

/// Counts an operation. `program` is this program: it is called with `run NAME`.
///
/// # Errors
/// What is to be told: valgrind is missing, or ended otherwise than it should.
pub fn count(program: &Path, name: &str) -> Result<Count, String> {
    let output = Command::new("valgrind")
        .args(["--tool=callgrind", "--callgrind-out-file=/dev/null"])
        .arg(format!("--toggle-collect={WATCHED}"))
        .arg(program)
        .args(["run", name])
        // The environment lies on the stack: another one moves what lies below, and with it the ends of copies.
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap_or_default())
        .env("GLIBC_TUNABLES", PLAIN_COPIES)
        .output()
        .map_err(|error| format!("valgrind does not start: {error}"))?;
    let (told, counted) = (String::from_utf8_lossy(&output.stderr), String::from_utf8_lossy(&output.stdout));
    if !output.status.success() {
        return Err(format!("{name}: {}\n{told}", output.status));
    }
    let counted = read_report(&counted).ok_or_else(|| format!("{name}: no report in {counted:?}"))?;
    let instructions = read_instructions(&told).ok_or_else(|| format!("{name}: no count in\n{told}"))?;
    if instructions < counted.rows / 64 {
        return Err(format!(
            "{name}: {instructions} instructions for {} rows: the watched function was not found",
            counted.rows
        ));
    }
    Ok(Count { counted, instructions })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_reported_is_read() {
        let counted = Counted { rows: 8_192, batch: 4_096 };
        assert_eq!(read_report(&format!("{}\n", report(counted))), Some(counted));
        assert_eq!(read_report("counted 1"), None);
        assert_eq!(read_report(""), None);
    }

    #[test]
    fn the_end_of_callgrind_is_read() {
        let told =
            "==7== Events    : Ir\n==7== Collected : 1234567\n==7== \n==7== I   refs:      1,234,567\n";
        assert_eq!(read_instructions(told), Some(1_234_567));
        assert_eq!(read_instructions("==7== Events : Ir"), None);
    }
}
