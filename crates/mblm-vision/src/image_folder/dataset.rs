//! The data set: each sample is an image.
//!
//! Worker w of W owns the w-th of W equal ranges of the split's images; the remainder is dropped.
//! All epochs have the same samples.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use rayon::prelude::*;

use super::files::{Found, find, is_misnamed};
use super::form::Form;
use super::layout::Layout;
use super::options::ImageFolderOptions;
use crate::image::cache::{Cache, Damaged};
use crate::image::images::Images;
use crate::image::{inspect_image, inspect_jpeg};
use mblm::data::{Dataset, DatasetArgs, OnOpening, Sample, Split};
use mblm::{Error, Result};

/// The largest number of damaged images in a message.
const NAMED: usize = 20;

/// A split of a folder of images for one worker.
pub struct ImageFolder {
    images: Images,
    layout: Layout,
    /// The number of images of the split, over all workers.
    total: usize,
    /// The images of this worker.
    own: Vec<usize>,
    description: String,
}

/// Opens `pictures` for the registry.
pub(crate) fn open(args: &DatasetArgs) -> Result<Option<Arc<dyn Dataset>>> {
    Ok(ImageFolder::open(args)?.map(|images| Arc::new(images) as Arc<dyn Dataset>))
}

impl ImageFolder {
    /// Opens the split that `args` ask for; `None` if there is none. Checks the beginning of every
    /// image file (and the end of PNG files) and the length of every sample; JPEG files to be made
    /// are made here for their length. Every image is decoded if damaged images are to be skipped
    /// or one begins wrongly.
    ///
    /// # Errors
    /// Invalid options; problems with the files, of which the first are named.
    pub fn open(args: &DatasetArgs) -> Result<Option<Self>> {
        let options = ImageFolderOptions::read(args)?;
        let Some(Found { folder, names, mut own }) = find(args, options.held_out, options.jpeg_files)? else {
            return Ok(None);
        };
        let layout = Layout::of(&options, args)?;
        if !layout.has_end() && args.split == Split::Train {
            tracing::warn!(
                "io.dataset_args has no eom_token_id: the model cannot learn where a JPEG file ends, so generated \
                 files fill its context"
            );
        }
        let mut images = Images::new(folder, names, options.preparation()?);
        let lens = lens(&mut images, &mut own, &options, layout.form(), args.on_opening.as_ref())?;
        let misfits: Vec<(PathBuf, String)> = own
            .iter()
            .zip(lens)
            .filter_map(|(image, len)| Some((images.path(*image), layout.misfit(len)?)))
            .collect();
        if let Some((path, message)) = misfits.first() {
            let more = match misfits.len() {
                1 => String::new(),
                count => format!("; {} more images are too long", count - 1),
            };
            return Err(Error::file(path, format!("{message}{more}")));
        }
        let (total, workers) = (own.len(), args.workers);
        let len = total / workers;
        if len == 0 {
            return Err(Error::file(
                &images.listing().folder,
                format!("{total} images are too few for {workers} workers; expected one for each"),
            ));
        }
        let what = match layout.form() {
            Form::Pixels { width, height } => format!("as {width} × {height} pixels"),
            Form::Jpeg => "as JPEG files".into(),
        };
        Ok(Some(Self {
            images,
            total,
            own: own[args.worker * len..][..len].to_vec(),
            description: format!(
                "pictures ({} split of {}): {total} {what}, worker {} of {workers} reads {len} samples of {} ids",
                args.split,
                args.dir.display(),
                args.worker,
                layout.sample_len()
            ),
            layout,
        }))
    }

    /// Returns the file of sample `index`.
    ///
    /// # Errors
    /// An index beyond the last sample.
    pub fn path(&self, index: usize) -> Result<PathBuf> {
        Ok(self.images.path(self.image(index)?))
    }

    fn image(&self, index: usize) -> Result<usize> {
        self.own.get(index).copied().ok_or_else(|| {
            Error::input(format!(
                "{}: sample {index} of {}: samples are numbered from 0",
                self.description,
                self.own.len()
            ))
        })
    }
}

/// Returns the length of each image of the split in bytes. Images for a cache, and JPEG files to be
/// made, are prepared here. Damaged images are removed from `own` or are an error.
fn lens(
    images: &mut Images,
    own: &mut Vec<usize>,
    options: &ImageFolderOptions,
    form: Form,
    on_opening: Option<&OnOpening>,
) -> Result<Vec<usize>> {
    let misnamed = Mutex::new(Vec::new());
    let inspected: Vec<Result<usize>> = own
        .par_iter()
        .map(|image| match options.jpeg_files {
            true => inspect_jpeg(&images.path(*image)),
            false => inspect_image(&images.path(*image)).map(|kind| {
                if is_misnamed(&images.path(*image), kind) {
                    misnamed.lock().unwrap_or_else(PoisonError::into_inner).push(*image);
                }
                0 // the length does not depend on it
            }),
        })
        .collect();
    let mut misnamed = misnamed.into_inner().unwrap_or_else(PoisonError::into_inner);
    if !misnamed.is_empty() {
        misnamed.sort_unstable();
        let names = misnamed
            .iter()
            .take(NAMED)
            .map(|image| images.path(*image).display().to_string());
        let names = names.collect::<Vec<_>>().join(", ");
        tracing::warn!(
            "{} images have names that do not fit their content (PNG or JPEG); they are read by content: {names}",
            misnamed.len()
        );
    }
    let skip = options.skip_bad_images;
    let begin_well = inspected.iter().all(Result::is_ok);
    if let Some(folder) = options.cache_dir.as_deref().filter(|_| begin_well || skip) {
        let damaged = match skip {
            true => Damaged::Empty,
            false => Damaged::Refused,
        };
        images.set_cache(Cache::open(folder, images.listing(), damaged, on_opening)?);
    }
    let lens = match form.bytes() {
        // decodes all images if damaged ones are to be skipped, or after an error, so that it names
        // them all
        _ if skip || !begin_well => decoded(images, own, inspected, on_opening),
        _ if options.cache_dir.is_some() => own.iter().map(|image| images.cached_len(*image)).collect(),
        Some(bytes) => own.iter().map(|_| Ok(bytes)).collect(),
        None if options.jpeg_files => inspected,
        None => images.prepare(own, on_opening),
    };
    sound(own, lens, skip)
}

/// Decodes the images that passed inspection; returns the length of each in bytes, or its problem.
fn decoded(
    images: &Images,
    own: &[usize],
    inspected: Vec<Result<usize>>,
    on_opening: Option<&OnOpening>,
) -> Vec<Result<usize>> {
    let whole = own.iter().zip(&inspected).filter(|(_, size)| size.is_ok());
    let whole: Vec<usize> = whole.map(|(image, _)| *image).collect();
    let mut lens = images.prepare(&whole, on_opening).into_iter();
    // `lens` has one entry per image that passed inspection
    let len = |size: Result<usize>| size.and_then(|size| lens.next().unwrap_or(Ok(size)));
    inspected.into_iter().map(len).collect()
}

/// Returns the lengths of the sound images. Damaged images are an error that names them, or with
/// `skip` are removed from `own` with a warning that names them.
fn sound(own: &mut Vec<usize>, inspected: Vec<Result<usize>>, skip: bool) -> Result<Vec<usize>> {
    let all = inspected.len();
    let errors: Vec<&Error> = inspected.iter().filter_map(|size| size.as_ref().err()).collect();
    if errors.is_empty() {
        return inspected.into_iter().collect();
    }
    let named: Vec<String> = errors.iter().take(NAMED).map(ToString::to_string).collect();
    let more = match errors.len() - named.len() {
        0 => String::new(),
        more => format!("; and {more} more"),
    };
    let message = format!("{}{more}", named.join("; "));
    if !skip {
        return Err(match errors.len() {
            1 => Error::input(message),
            count => Error::input(format!("{message}; {count} of {all} images are damaged")),
        });
    }
    if errors.len() == all {
        return Err(Error::input(format!("all {all} images are damaged: {message}")));
    }
    tracing::warn!("{} of {all} images left out: {message}", errors.len());
    let mut sizes = inspected.into_iter();
    let mut sound = Vec::with_capacity(all);
    own.retain(|_| match sizes.next() {
        Some(Ok(size)) => {
            sound.push(size);
            true
        }
        _ => false,
    });
    Ok(sound)
}

impl Dataset for ImageFolder {
    fn len(&self, _: usize) -> usize {
        self.own.len()
    }

    fn sample(&self, index: usize, _: usize) -> Result<Sample> {
        let image = self.image(index)?;
        let bytes = self.images.bytes(image)?;
        match self.layout.misfit(bytes.len()) {
            Some(message) => Err(Error::file(self.images.path(image), message)),
            None => Ok(self.layout.sample(&bytes)),
        }
    }

    fn bytes(&self) -> u64 {
        self.total as u64 * self.layout.sample_len() as u64
    }

    fn describe(&self) -> String {
        self.description.clone()
    }

    fn is_costly(&self) -> bool {
        true
    }
}
