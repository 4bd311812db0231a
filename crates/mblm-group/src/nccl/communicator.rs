//! A non-blocking communicator of NCCL, and the questions that a host asks until a call is done.

use std::ffi::CStr;
use std::ptr::null_mut;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicPtr, Ordering};
use std::time::{Duration, Instant};

use candle_core::backend::BackendStorage;
use candle_core::cuda_backend::CudaStorageSlice;
use candle_core::{CudaDevice, Error, Result, Storage, Tensor, bail};
use cudarc::driver::{CudaEvent, CudaStream, DevicePtr, DriverError};
use cudarc::nccl::result::{self, NcclError, NcclStatus};
use cudarc::nccl::sys;
use parking_lot::Mutex;

/// The outcome of a call of NCCL.
type Status = std::result::Result<NcclStatus, NcclError>;

/// A communicator and the stream that all its work goes to.
pub(super) struct Communicator {
    /// Null after the end.
    raw: AtomicPtr<sys::ncclComm>,
    /// One call at a time.
    turn: Mutex<()>,
    stream: Arc<CudaStream>,
    /// Recorded after the newest call.
    event: CudaEvent,
    is_recorded: AtomicBool,
    limit: Duration,
}

impl Communicator {
    /// The communicator that `init` starts; it waits for the other ranks.
    pub(super) fn start(
        device: &CudaDevice,
        limit: Duration,
        init: impl FnOnce(*mut sys::ncclComm_t, *mut sys::ncclConfig_t) -> Status,
    ) -> Result<Self> {
        let stream = device.cuda_stream();
        stream.context().bind_to_thread().map_err(cuda)?;
        let (mut raw, mut config) = (null_mut(), non_blocking());
        let status = init(&mut raw, &mut config);
        let this = Self::of(raw, stream, limit)?;
        this.settle("init", status)?;
        Ok(this)
    }

    fn of(raw: sys::ncclComm_t, stream: Arc<CudaStream>, limit: Duration) -> Result<Self> {
        let event = stream.context().new_event(None).map_err(cuda)?;
        Ok(Self {
            raw: AtomicPtr::new(raw),
            turn: Mutex::new(()),
            stream,
            event,
            is_recorded: AtomicBool::new(false),
            limit,
        })
    }

    /// The communicator of the ranks with the same color, ordered by their keys.
    pub(super) fn split(&self, color: i32, key: i32) -> Result<Self> {
        let _turn = self.turn.lock();
        self.stream.context().bind_to_thread().map_err(cuda)?;
        let (mut part, mut config) = (null_mut(), non_blocking());
        // SAFETY: the communicator is alive; the pointers are to variables that live until the call
        // is done.
        let status = unsafe { sys::ncclCommSplit(self.alive()?, color, key, &mut part, &mut config) }.result();
        self.settle("split", status)?; // NCCL writes `part` meanwhile
        let part = Self::of(part, Arc::clone(&self.stream), self.limit)?;
        part.settle("split", Ok(NcclStatus::InProgress))?;
        Ok(part)
    }

    /// The rank and the size.
    pub(super) fn place(&self) -> Result<(usize, usize)> {
        let raw = self.alive()?;
        // SAFETY: the communicator is alive.
        let (rank, size) = unsafe { (result::comm_user_rank(raw), result::comm_count(raw)) };
        let number = |value: std::result::Result<i32, NcclError>| {
            let value = value.map_err(|error| failed("split", error.0, Some(raw)))?;
            usize::try_from(value).map_err(Error::wrap)
        };
        Ok((number(rank)?, number(size)?))
    }

    pub(super) fn stream(&self) -> &Arc<CudaStream> {
        &self.stream
    }

    /// Makes one call, which puts its work on the stream, and waits until the work is there.
    pub(super) fn call(
        &self,
        name: &str,
        make: impl FnOnce(sys::ncclComm_t, sys::cudaStream_t) -> Status,
    ) -> Result<()> {
        let _turn = self.turn.lock();
        self.stream.context().bind_to_thread().map_err(cuda)?;
        let status = make(self.alive()?, self.stream.cu_stream().cast());
        self.settle(name, status)?;
        self.event.record(&self.stream).map_err(cuda)?;
        self.is_recorded.store(true, Ordering::Release);
        Ok(())
    }

    /// Waits until the work of all calls is finished.
    pub(super) fn finish(&self, name: &str) -> Result<()> {
        let start = Instant::now();
        while self.is_busy()? {
            self.pause(name, start)?;
        }
        Ok(())
    }

    /// Whether a call, or its work, is unfinished.
    pub(super) fn is_busy(&self) -> Result<bool> {
        // a thread inside a call notices its failure itself
        let Some(_turn) = self.turn.try_lock() else {
            return Ok(true);
        };
        let raw = self.raw.load(Ordering::Acquire);
        if raw.is_null() || !self.is_recorded.load(Ordering::Acquire) {
            return Ok(false);
        }
        match self.failure()? {
            None => {}
            Some(sys::ncclResult_t::ncclInProgress) => return Ok(true),
            Some(state) => return Err(failed("a collective", state, Some(raw))),
        }
        self.stream.context().bind_to_thread().map_err(cuda)?;
        self.event.try_is_complete().map(|done| !done).map_err(cuda)
    }

    /// Finishes all work, then finalizes and destroys the communicator.
    pub(super) fn end(&self) -> Result<()> {
        self.finish("end")?;
        let _turn = self.turn.lock();
        let raw = self.alive()?;
        self.stream.context().bind_to_thread().map_err(cuda)?;
        // SAFETY: the communicator is alive, and its work is finished.
        let status = unsafe { result::comm_finalize(raw) };
        self.settle("end", status)?;
        self.raw.store(null_mut(), Ordering::Release);
        // SAFETY: the communicator is finalized, and nothing refers to it any more.
        match unsafe { result::comm_destroy(raw) } {
            Ok(_) => Ok(()),
            Err(error) => Err(failed("end", error.0, None)),
        }
    }

    /// The communicator, if it has not ended.
    fn alive(&self) -> Result<sys::ncclComm_t> {
        let raw = self.raw.load(Ordering::Acquire);
        if raw.is_null() {
            bail!("nccl: expected no calls after the end of the group");
        }
        Ok(raw)
    }

    /// Asks NCCL until a call that returned `status` is done.
    fn settle(&self, name: &str, status: Status) -> Result<()> {
        let start = Instant::now();
        if let Err(error) = status {
            return Err(failed(name, error.0, Some(self.raw.load(Ordering::Acquire))));
        }
        loop {
            match self.failure()? {
                None => return Ok(()),
                Some(sys::ncclResult_t::ncclInProgress) => self.pause(name, start)?,
                Some(state) => return Err(failed(name, state, Some(self.alive()?))),
            }
        }
    }

    /// The state of the communicator, unless it is success.
    fn failure(&self) -> Result<Option<sys::ncclResult_t>> {
        let raw = self.alive()?;
        let mut state = sys::ncclResult_t::ncclSuccess;
        // SAFETY: the communicator is alive, and NCCL allows the question from any thread.
        match unsafe { sys::ncclCommGetAsyncError(raw, &mut state) } {
            sys::ncclResult_t::ncclSuccess => {}
            error => return Err(failed("state", error, None)),
        }
        Ok((state != sys::ncclResult_t::ncclSuccess).then_some(state))
    }

    /// A moment between two questions: short at first, a millisecond later.
    fn pause(&self, name: &str, start: Instant) -> Result<()> {
        let waited = start.elapsed();
        if waited >= self.limit {
            bail!("{name}: waited {:.1} s for another rank", waited.as_secs_f64());
        }
        if waited < Duration::from_millis(1) {
            std::thread::yield_now();
        } else {
            std::thread::sleep((waited / 20).min(Duration::from_millis(1)));
        }
        Ok(())
    }
}

/// The configuration of a non-blocking communicator; NCCL chooses everything else.
fn non_blocking() -> sys::ncclConfig_t {
    sys::ncclConfig_t {
        size: size_of::<sys::ncclConfig_t>(),
        magic: 0xcafe_beef,
        version: 22_203,
        blocking: 0,
        cgaClusterSize: i32::MIN,
        minCTAs: i32::MIN,
        maxCTAs: i32::MIN,
        netName: std::ptr::null(),
        splitShare: i32::MIN,
    }
}

/// The error of a call that NCCL failed.
pub(super) fn failed(name: &str, state: sys::ncclResult_t, raw: Option<sys::ncclComm_t>) -> Error {
    let text = |pointer: *const std::ffi::c_char| {
        if pointer.is_null() {
            return String::new();
        }
        // SAFETY: NCCL returns static texts and texts of the thread, which end with a zero.
        unsafe { CStr::from_ptr(pointer) }.to_string_lossy().into_owned()
    };
    // SAFETY: both questions take any state; NCCL ignores the communicator of the second.
    let (what, last) = unsafe {
        (
            text(sys::ncclGetErrorString(state)),
            text(sys::ncclGetLastError(raw.unwrap_or(null_mut()))),
        )
    };
    let separator = if last.is_empty() { "" } else { ": " };
    Error::msg(format!("{name}: NCCL: {what}{separator}{last}"))
}

/// The error of a call that the driver failed.
pub(super) fn cuda(error: DriverError) -> Error {
    Error::Cuda(Box::new(error)).bt()
}

/// The device address of a contiguous tensor's first element.
pub(super) fn pointer(tensor: &Tensor) -> Result<u64> {
    let (storage, layout) = tensor.storage_and_layout();
    let Storage::Cuda(storage) = &*storage else {
        bail!(
            "expected a tensor on a CUDA device, found one on {:?}",
            tensor.device().location()
        )
    };
    let stream = storage.device().cuda_stream();
    let start = match &storage.slice {
        CudaStorageSlice::F32(slice) => slice.device_ptr(&stream).0,
        CudaStorageSlice::BF16(slice) => slice.device_ptr(&stream).0,
        _ => bail!("expected f32 or bf16 on a GPU, found {:?}", tensor.dtype()),
    };
    Ok(start + (layout.start_offset() * tensor.dtype().size_in_bytes()) as u64)
}
