//! Where the ranks of a job meet: the address for NCCL's own rendezvous, and a name for a file.

use candle_core::{Result, bail};

use super::set::number;

/// The address at which NCCL's ranks meet, for `NCCL_COMM_ID`: `MASTER_ADDR:PORT`.
///
/// `NCCL_COMM_ID` itself comes first. Otherwise the port is `MASTER_PORT`; one more if torchrun's
/// store has that one (`TORCHELASTIC_USE_AGENT_STORE=True`); without `MASTER_PORT` 15000 + the last
/// four digits of the SLURM job. Without `MASTER_ADDR` there is no address.
///
/// # Errors
/// A port that is missing or no port.
pub fn nccl_address(variable: impl Fn(&str) -> Option<String>) -> Result<Option<String>> {
    let variable = |name: &str| variable(name).filter(|value| !value.is_empty());
    if let Some(address) = variable("NCCL_COMM_ID") {
        return Ok(Some(address));
    }
    let Some(host) = variable("MASTER_ADDR") else {
        return Ok(None);
    };
    let agent_has_port =
        variable("TORCHELASTIC_USE_AGENT_STORE").is_some_and(|value| value.eq_ignore_ascii_case("true"));
    let port = match (number("MASTER_PORT", &variable)?, number("SLURM_JOB_ID", &variable)?) {
        (Some(port), _) => port.saturating_add(usize::from(agent_has_port)),
        (None, Some(job)) => 15000 + job % 10_000,
        (None, None) => bail!("launch: MASTER_ADDR is set, but neither MASTER_PORT nor SLURM_JOB_ID is"),
    };
    if port == 0 || port > usize::from(u16::MAX) {
        bail!("launch: expected a port of 1 to 65535 from MASTER_PORT, found {port}");
    }
    let is_bare_v6 = host.contains(':') && !host.starts_with('[');
    Ok(Some(match is_bare_v6 {
        true => format!("[{host}]:{port}"),
        false => format!("{host}:{port}"),
    }))
}

/// The name of this attempt of the job, for a file that only its ranks share.
///
/// It has the job, step and restart count of SLURM, or the id and restart count of torchrun, with
/// other characters than letters, digits, `-` and `_` replaced. Without either there is no name.
pub fn attempt_name(variable: impl Fn(&str) -> Option<String>) -> Option<String> {
    let variable = |name: &str| variable(name).filter(|value| !value.is_empty());
    let or_0 = |name: &str| variable(name).unwrap_or_else(|| "0".to_string());
    let name = match (variable("TORCHELASTIC_RUN_ID"), variable("SLURM_JOB_ID")) {
        (Some(id), None) => format!("torchrun-{id}-{}", or_0("TORCHELASTIC_RESTART_COUNT")),
        (id, Some(job)) => {
            let slurm = format!("slurm-{job}-{}-{}", or_0("SLURM_STEP_ID"), or_0("SLURM_RESTART_COUNT"));
            match id {
                Some(id) => format!("{slurm}-{id}-{}", or_0("TORCHELASTIC_RESTART_COUNT")),
                None => slurm,
            }
        }
        (None, None) => return None,
    };
    let safe = |character: char| character.is_ascii_alphanumeric() || "-_".contains(character);
    Some(name.replace(|character| !safe(character), "_"))
}
