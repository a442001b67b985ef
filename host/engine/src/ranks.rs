//! Which of several processes this one is, from what launchers leave in the environment, and how they find each other.
//!
//! It must not know what the ranks do together: it hands each of them a [`Communicator`].

mod rendezvous;

use std::time::Duration;

use swift_kernels::cuda::{
    CudaError, Device,
    nccl::{Communicator, ID_BYTES, UniqueId},
};

use crate::error::EngineError;

/// How long the ranks wait for each other at the start unless told otherwise.
const MEETING: Duration = Duration::from_secs(300);
/// How long a rank waits for the others in a step unless told otherwise.
const STEP: Duration = Duration::from_secs(1800);
/// Where rank 0 listens when nothing says otherwise; PyTorch's number too.
const PORT: u16 = 29500;

/// One process of several that train together, each on one GPU.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ranks {
    /// From 0 to below `world_size`.
    pub rank: usize,
    pub world_size: usize,
    /// Number among the processes of this machine: its GPU.
    pub local_rank: usize,
    /// Where the others find rank 0 at the start.
    pub master_addr: String,
    pub master_port: u16,
    /// How long to wait for the others. `None`: 5 minutes at the start, 30 in a step.
    pub timeout: Option<Duration>,
}

/// What is wrong with the ranks.
#[derive(Debug, Clone, thiserror::Error)]
pub enum RanksError {
    /// A launcher's variable does not hold what it should.
    #[error("the environment variable {name} is `{value}`, not {expected}")]
    Value { name: &'static str, value: String, expected: String },
    /// One variable is there, another that belongs to it is not.
    #[error("the environment says {given}, but {missing} is not set")]
    Missing { given: String, missing: &'static str },
    /// The ranks did not find each other.
    #[error("{message}")]
    Meeting { message: String, hint: String },
    /// NCCL cannot be used, or says no.
    #[error(transparent)]
    Cuda(#[from] CudaError),
}

impl RanksError {
    /// What the user can do.
    pub fn hint(&self) -> Option<String> {
        Some(match self {
            Self::Value { .. } => "launchers like torchrun, mpirun and srun set it; unset it to run one process".into(),
            Self::Missing { missing: "MASTER_ADDR", .. } => {
                "set MASTER_ADDR to the host of rank 0, for all ranks, or start them with torchrun".into()
            }
            Self::Missing { missing: "LOCAL_RANK", .. } => {
                "set LOCAL_RANK to the number of this process's GPU on its machine, or start the ranks with torchrun"
                    .into()
            }
            Self::Missing { .. } => {
                "start the ranks with torchrun, mpirun or srun, or unset it to run one process".into()
            }
            Self::Meeting { hint, .. } => hint.clone(),
            Self::Cuda(error) => return error.hint(),
        })
    }
}

impl From<RanksError> for EngineError {
    fn from(error: RanksError) -> Self {
        match error {
            RanksError::Cuda(error) => Self::Cuda(error),
            other => Self::Placement { message: other.to_string(), hint: other.hint().unwrap_or_default() },
        }
    }
}

/// The variables of one launcher: rank, number of ranks, rank on this machine, number of ranks on this machine.
struct Launcher {
    rank: &'static str,
    world_size: &'static str,
    local_rank: &'static str,
    local_size: &'static str,
}

/// In this order: what is nearest to the process says most. srun's own number of tasks is asked for, since a batch script
/// that starts swift without srun sees SLURM_NTASKS as well.
const LAUNCHERS: &[Launcher] = &[
    Launcher { rank: "RANK", world_size: "WORLD_SIZE", local_rank: "LOCAL_RANK", local_size: "LOCAL_WORLD_SIZE" },
    Launcher {
        rank: "OMPI_COMM_WORLD_RANK",
        world_size: "OMPI_COMM_WORLD_SIZE",
        local_rank: "OMPI_COMM_WORLD_LOCAL_RANK",
        local_size: "OMPI_COMM_WORLD_LOCAL_SIZE",
    },
    Launcher {
        rank: "SLURM_PROCID",
        world_size: "SLURM_STEP_NUM_TASKS",
        local_rank: "SLURM_LOCALID",
        local_size: "SLURM_STEP_TASKS_PER_NODE",
    },
    Launcher { rank: "PMI_RANK", world_size: "PMI_SIZE", local_rank: "MPI_LOCALRANKID", local_size: "MPI_LOCALNRANKS" },
];

impl Ranks {
    /// Reads what torchrun, Open MPI, Slurm's srun or a PMI launcher (MPICH, Intel MPI) left in the environment; `None`
    /// where none of them started this process.
    ///
    /// # Errors
    /// When a variable is no number, the numbers contradict each other, or one of them is missing.
    pub fn from_environment(lookup: impl Fn(&str) -> Option<String>) -> Result<Option<Self>, RanksError> {
        let lookup = |name: &str| lookup(name).map(|value| value.trim().to_owned()).filter(|value| !value.is_empty());
        // A rank or a size alone is an accident of the user's shell, except of the names that people set by hand.
        let started = |l: &&Launcher| lookup(l.rank).is_some() && lookup(l.world_size).is_some();
        let Some(launcher) = LAUNCHERS.iter().find(started) else {
            return match (lookup("RANK"), lookup("WORLD_SIZE")) {
                (Some(rank), None) => Err(RanksError::Missing { given: format!("RANK {rank}"), missing: "WORLD_SIZE" }),
                (None, Some(size)) if size != "1" => {
                    Err(RanksError::Missing { given: format!("WORLD_SIZE {size}"), missing: "RANK" })
                }
                _ => Ok(None),
            };
        };
        let number = |name: &'static str| -> Result<Option<usize>, RanksError> {
            let bad = |value| RanksError::Value { name, value, expected: "a whole number".into() };
            lookup(name).map(|value| value.parse().map_err(|_| bad(value))).transpose()
        };
        let out_of_range = |name: &'static str, value: usize, expected: String| {
            Err(RanksError::Value { name, value: value.to_string(), expected })
        };
        let (rank, world_size) =
            (number(launcher.rank)?.unwrap_or_default(), number(launcher.world_size)?.unwrap_or_default());
        if world_size == 0 {
            return out_of_range(launcher.world_size, world_size, "at least 1".into());
        }
        if rank >= world_size {
            let expected = format!("below {world_size}, as {} says", launcher.world_size);
            return out_of_range(launcher.rank, rank, expected);
        }
        let together = format!("{} {rank} of {} {world_size}", launcher.rank, launcher.world_size);
        let missing = |missing| RanksError::Missing { given: together.clone(), missing };
        let local_rank = match number(launcher.local_rank)?.map_or_else(|| number("LOCAL_RANK"), |n| Ok(Some(n)))? {
            Some(local_rank) => local_rank,
            None if world_size == 1 => 0,
            None => return Err(missing("LOCAL_RANK")),
        };
        // Where all ranks are on this machine it is the master.
        let alone = lookup(launcher.local_size).is_some_and(|size| size == world_size.to_string());
        let master_addr = match lookup("MASTER_ADDR") {
            Some(address) => address,
            None if world_size == 1 || alone => "127.0.0.1".into(),
            None => return Err(missing("MASTER_ADDR")),
        };
        let bad_port = |value: String| RanksError::Value { name: "MASTER_PORT", value, expected: "a port".into() };
        let mut master_port: u16 = match lookup("MASTER_PORT") {
            Some(value) => value.parse().map_err(|_| bad_port(value.clone()))?,
            None => PORT,
        };
        // torchrun listens on this port itself then.
        if lookup("TORCHELASTIC_USE_AGENT_STORE").is_some_and(|value| value.eq_ignore_ascii_case("true")) {
            master_port = master_port.checked_add(1).ok_or_else(|| bad_port(master_port.to_string()))?;
        }
        Ok(Some(Self { rank, world_size, local_rank, master_addr, master_port, timeout: None }))
    }

    /// Meets the other ranks and joins them: rank 0 makes NCCL's id and serves it at the master's address. A single rank
    /// needs no NCCL and gets `None` where there is none.
    ///
    /// # Errors
    /// When a rank does not come in time, ranks contradict each other, or NCCL is missing or fails.
    pub fn connect(&self, device: &Device) -> Result<Option<Communicator>, RanksError> {
        let make = || UniqueId::new().map(|id| *id.bytes());
        let join = |id: [u8; ID_BYTES]| {
            let timeout = self.timeout.unwrap_or(STEP);
            Communicator::new(device, &UniqueId::from_bytes(id), self.rank, self.world_size, timeout)
        };
        if self.world_size == 1 {
            return match make().and_then(join) {
                Ok(communicator) => Ok(Some(communicator)),
                Err(CudaError::MissingLibrary { .. }) => Ok(None),
                Err(error) => Err(error.into()),
            };
        }
        let id = rendezvous::share(self, self.timeout.unwrap_or(MEETING), make)?;
        Ok(Some(join(id)?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(variables: &[(&str, &str)]) -> Result<Option<Ranks>, RanksError> {
        let find = |name: &str| variables.iter().find(|(n, _)| *n == name).map(|(_, value)| (*value).to_owned());
        Ranks::from_environment(find)
    }

    fn ranks(rank: usize, world_size: usize, local_rank: usize, address: &str, port: u16) -> Ranks {
        Ranks { rank, world_size, local_rank, master_addr: address.into(), master_port: port, timeout: None }
    }

    #[test]
    fn every_launcher_is_understood() {
        let torchrun = [
            ("RANK", "3"),
            ("WORLD_SIZE", "8"),
            ("LOCAL_RANK", "1"),
            ("MASTER_ADDR", "node-0"),
            ("MASTER_PORT", "1234"),
            // Slurm started torchrun.
            ("SLURM_PROCID", "0"),
            ("SLURM_STEP_NUM_TASKS", "4"),
        ];
        assert_eq!(read(&torchrun).unwrap(), Some(ranks(3, 8, 1, "node-0", 1234)));
        let agent = [&torchrun[..], &[("TORCHELASTIC_USE_AGENT_STORE", "True")]].concat();
        assert_eq!(read(&agent).unwrap(), Some(ranks(3, 8, 1, "node-0", 1235)));
        let open_mpi = [
            ("OMPI_COMM_WORLD_RANK", "2"),
            ("OMPI_COMM_WORLD_SIZE", "4"),
            ("OMPI_COMM_WORLD_LOCAL_RANK", "2"),
            ("OMPI_COMM_WORLD_LOCAL_SIZE", "4"),
        ];
        assert_eq!(read(&open_mpi).unwrap(), Some(ranks(2, 4, 2, "127.0.0.1", PORT)));
        let slurm = [
            ("SLURM_PROCID", "5"),
            ("SLURM_STEP_NUM_TASKS", "16"),
            ("SLURM_LOCALID", "5"),
            ("SLURM_STEP_TASKS_PER_NODE", "8(x2)"),
            ("MASTER_ADDR", "node-0"),
        ];
        assert_eq!(read(&slurm).unwrap(), Some(ranks(5, 16, 5, "node-0", PORT)));
        let pmi = [("PMI_RANK", "1"), ("PMI_SIZE", "2"), ("MPI_LOCALRANKID", "1"), ("MPI_LOCALNRANKS", "2")];
        assert_eq!(read(&pmi).unwrap(), Some(ranks(1, 2, 1, "127.0.0.1", PORT)));
    }

    #[test]
    fn one_process_needs_nothing() {
        assert_eq!(read(&[]).unwrap(), None);
        assert_eq!(read(&[("WORLD_SIZE", "1")]).unwrap(), None);
        assert_eq!(read(&[("RANK", ""), ("WORLD_SIZE", " ")]).unwrap(), None);
        // A batch script of a job with eight tasks is one process.
        assert_eq!(read(&[("SLURM_PROCID", "0"), ("SLURM_NTASKS", "8")]).unwrap(), None);
        assert_eq!(read(&[("RANK", "0"), ("WORLD_SIZE", "1")]).unwrap(), Some(ranks(0, 1, 0, "127.0.0.1", PORT)));
    }

    #[test]
    fn mistakes_are_named() {
        let two = [("RANK", "1"), ("WORLD_SIZE", "2"), ("LOCAL_RANK", "1")];
        let with = |more: &[(&'static str, &'static str)]| [more, &two[..]].concat();
        for (variables, message) in [
            (vec![("RANK", "1")], "the environment says RANK 1, but WORLD_SIZE is not set"),
            (vec![("WORLD_SIZE", "2")], "the environment says WORLD_SIZE 2, but RANK is not set"),
            (with(&[("RANK", "one")]), "the environment variable RANK is `one`, not a whole number"),
            (with(&[("RANK", "2")]), "the environment variable RANK is `2`, not below 2, as WORLD_SIZE says"),
            (with(&[("WORLD_SIZE", "0")]), "the environment variable WORLD_SIZE is `0`, not at least 1"),
            (two.to_vec(), "the environment says RANK 1 of WORLD_SIZE 2, but MASTER_ADDR is not set"),
            (two[..2].to_vec(), "the environment says RANK 1 of WORLD_SIZE 2, but LOCAL_RANK is not set"),
            (
                with(&[("MASTER_ADDR", "a"), ("MASTER_PORT", "99999")]),
                "the environment variable MASTER_PORT is `99999`, not a port",
            ),
        ] {
            let error = read(&variables).unwrap_err();
            assert_eq!(error.to_string(), message);
            assert!(error.hint().is_some());
        }
    }
}
