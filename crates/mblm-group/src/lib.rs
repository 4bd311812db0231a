//! Groups of ranks that train one model together, and how their processes are launched.
//!
//! | module | holds |
//! |---|---|
//! | [`group`] | the trait [`Group`]: the rank, the size and the collectives on tensors |
//! | [`alone`] | [`Alone`], a group of one rank |
//! | [`threads`] | [`Threads`], ranks that are threads of one process, for tests |
//! | `mpi`, feature `mpi` | `Mpi`, ranks that are processes, for tensors of the CPU |
//! | `nccl`, feature `nccl` | `Nccl`, ranks that are processes with a GPU each |
//! | [`rendezvous`] | [`Rendezvous`]: a few bytes that ranks share through a file |
//! | [`watchdog`] | [`Watched`]: ends a process whose collective waits too long |
//! | [`buckets`] | [`Buckets`](buckets::Buckets): parameters as a few long vectors, divided among the ranks |
//! | [`launch`] | [`Launch`]: the rank, size and launcher, from the environment |
//!
//! Existing engines move all bytes between processes: MPI between CPUs, NCCL between GPUs. A group
//! of one rank needs neither. All ranks of a group make the same calls in the same order.
//!
//! ```
//! use candle_core::{Device, Tensor};
//! use mblm_group::{Group, Threads};
//!
//! let ranks: Vec<_> = Threads::new(2)
//!     .into_iter()
//!     .map(|group| {
//!         std::thread::spawn(move || {
//!             let own = Tensor::full(group.rank() as f32 + 1.0, 4, &Device::Cpu)?;
//!             group.all_reduce(&own)?.to_vec1::<f32>()
//!         })
//!     })
//!     .collect();
//! for rank in ranks {
//!     assert_eq!(rank.join().unwrap()?, [3.0; 4]);
//! }
//! # Ok::<(), candle_core::Error>(())
//! ```

pub mod alone;
pub mod buckets;
pub mod group;
pub mod launch;
#[cfg(feature = "mpi")]
pub mod mpi;
#[cfg(feature = "nccl")]
pub mod nccl;
pub mod rendezvous;
pub mod threads;
pub mod watchdog;

mod check;

pub use alone::Alone;
pub use group::Group;
pub use launch::{Launch, LaunchedBy};
#[cfg(feature = "mpi")]
pub use mpi::Mpi;
#[cfg(feature = "nccl")]
pub use nccl::Nccl;
pub use rendezvous::Rendezvous;
pub use threads::Threads;
pub use watchdog::Watched;
