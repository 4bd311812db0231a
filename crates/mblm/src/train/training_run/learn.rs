//! The batches of a run: passes of this rank's workers, the exchange between the ranks, the step,
//! and the reports.

use super::*;

impl TrainingRun<'_> {
    /// The batches of each worker of this rank.
    pub(super) fn batches(&self) -> Result<Vec<Loader>> {
        let train = &self.config.train;
        let loader = |worker| {
            let order = sample_order(train.shuffle_train, worker_seed(train.seed, worker));
            let options = LoaderOptions::training(train.batch_size, order, self.state.next);
            Loader::new(self.data.part(worker), options)
        };
        self.share.clone().map(loader).collect()
    }

    /// Returns the result of work that every rank does by itself. A failure is told to the other
    /// ranks, which wait for the record of the next batch.
    pub(super) fn told<T>(&self, found: Result<T>) -> Result<T> {
        if let Err(error) = &found
            && !self.peers.alone()
        {
            let error = Some(error.to_string());
            // the exchange fails with this error, or with the error of a lower rank
            self.peers.exchange(Told {
                error,
                ..Told::default()
            })?;
        }
        found
    }

    /// Trains on a batch of each worker; `None` if a rank was asked to stop meanwhile.
    pub(super) fn learn(&mut self, batches: &[Batch]) -> Result<Option<LearnedBatch>> {
        let cum_batch = self.state.counts.batches;
        let percent = AtomicUsize::new(0);
        let begun = Instant::now();
        let (lr, found) = (self.learner.lr(), self.pass(batches, &percent));
        let percent = percent.into_inner();
        if let Err(error) = &found
            && !matches!(error, Error::Stopped { .. })
        {
            let message = format!("failed {percent} % into batch {cum_batch}; {}", self.in_use());
            self.observer.event(&Event::Warning(&message))?;
        }
        let mut told = Told {
            stop: self.stop.load(Ordering::Relaxed),
            save: self.peers.writes() && self.saved_at.elapsed() >= MAX_UNSAVED,
            ..Told::default()
        };
        let (mut backward, mut failure) = (Duration::ZERO, None);
        match found {
            Ok(passed) => {
                backward = passed.backward;
                told.losses = passed.losses.into_iter().map(WorkerLoss::from).collect();
            }
            Err(Error::Stopped { .. }) => told.dropped = true,
            Err(error) => {
                told.error = Some(error.to_string());
                failure = Some(error);
            }
        }
        let agreed = match (self.peers.exchange(told), failure) {
            // a rank's own error says more than the record of it
            (Err(_), Some(error)) => return Err(error),
            (agreed, _) => agreed?,
        };
        self.stop_agreed |= agreed.stop;
        self.save_agreed |= agreed.save;
        if agreed.dropped {
            self.learner.clear_gradients()?; // nothing else was pending
            let message = format!("stopped {percent} % into batch {cum_batch}: a run that continues begins it anew");
            self.observer.event(&Event::Warning(&message))?;
            return Ok(None);
        }
        let forward = begun.elapsed().saturating_sub(backward);
        let norm = self
            .learner
            .complete(&agreed.losses, batches[0].position.batch as u64)?;
        self.check_finite(&agreed.losses, norm, batches)?;
        let passed = Passed {
            losses: agreed.losses,
            backward: begun.elapsed().saturating_sub(forward),
        };
        Ok(Some(LearnedBatch::new(passed, lr, norm, forward)))
    }

    /// Adds the gradients of a batch of each worker of this rank.
    pub(super) fn pass(&mut self, batches: &[Batch], percent: &AtomicUsize) -> Result<Passed> {
        let model_batches: Vec<_> = batches.iter().map(model_batch).collect();
        let workers = Workers {
            first: self.share.start,
            all: self.config.train.worker_count(),
        };
        let on_chunk = self.observer.on_chunk();
        let progress = |done: usize, of: usize| {
            percent.store(100 * done / of.max(1), Ordering::Relaxed);
            if let Some(on_chunk) = &on_chunk {
                on_chunk(done, of);
            }
        };
        let watch = Watch {
            stop: Some(self.stop),
            progress: Some(&progress),
        };
        self.learner.pass(&model_batches, workers, watch)
    }

    /// Fails if a loss of a worker or the gradient's norm is not finite. The batches are those of
    /// this rank, of the same epoch and index as those of the other ranks.
    pub(super) fn check_finite(&self, losses: &[Loss], norm: Option<GradientNorm>, batches: &[Batch]) -> Result<()> {
        let norm = norm.map_or(0.0, |norm| norm.before);
        let losses = losses.iter().map(|loss| ("the loss", loss.mean)).enumerate();
        for (worker, (what, value)) in losses.chain([(self.share.start, ("the norm of the gradient", norm))]) {
            if value.is_finite() {
                continue;
            }
            let Position { epoch, batch: index } = batches[0].position;
            let samples = match worker.checked_sub(self.share.start).and_then(|own| batches.get(own)) {
                Some(batch) => format!(", samples {:?}", batch.samples),
                None => String::new(),
            };
            let of = match self.config.train.worker_count() {
                1 => String::new(),
                _ => format!(", worker {worker}"),
            };
            let cum_batch = self.state.counts.batches;
            let place = format!("batch {cum_batch} (epoch {epoch}, batch {index} of it{samples}{of})");
            return Err(self.not_finite(what, value, place));
        }
        Ok(())
    }

    /// Counts a batch of each worker, and reports them.
    pub(super) fn report(&mut self, batches: &[Batch], learned: &LearnedBatch, logged: bool) -> Result<()> {
        let cum_batch = self.state.counts.batches;
        self.state.counts = self.learner.counts();
        self.state.last_loss = Some(learned.loss);
        self.state.last = batches[0].position;
        self.state.next = batches[0].next;
        let elements_seen = self.elements_seen();
        // batches of other ranks have the size and the position of these
        let batch = &batches[0];
        let report = |(worker, loss): (usize, &Loss)| BatchReport {
            worker,
            workers: learned.workers.len(),
            mean_loss: learned.loss,
            epoch: batch.position.epoch,
            batch: batch.position.batch,
            cum_batch,
            elements_seen,
            samples: batch.rows,
            bytes: batch.ids.len(),
            loss: *loss,
            lr: learned.lr,
            norm: learned.norm,
            logged,
            forward: learned.forward,
            backward: learned.backward,
        };
        for report in learned.workers.iter().enumerate().map(report) {
            self.observer.event(&Event::Batch(report))?;
        }
        Ok(())
    }
}
