//! Conversion of an image's bytes to ids, and of generated ids to an image.

use super::form::Form;
use super::options::ImageFolderOptions;
use mblm::Result;
use mblm::data::{DatasetArgs, Sample};

/// The smallest special id.
const SPECIAL: u32 = 256;

/// The ids around an image, and the length of a sample.
#[derive(Clone, Debug)]
pub struct Layout {
    form: Form,
    start: Option<u32>,
    end: Option<u32>,
    pad: u32,
    sample_len: usize,
}

impl Layout {
    /// Returns the layout of samples that are opened with `args`.
    ///
    /// # Errors
    /// Invalid options.
    pub fn new(args: &DatasetArgs) -> Result<Self> {
        Self::of(&ImageFolderOptions::read(args)?, args)
    }

    pub(super) fn of(options: &ImageFolderOptions, args: &DatasetArgs) -> Result<Self> {
        Ok(Self {
            form: options.form()?,
            start: options.som_image_token_id,
            end: options.eom_token_id,
            pad: args.pad_token_id,
            sample_len: args.sample_len,
        })
    }

    /// Returns the form of the bytes.
    pub fn form(&self) -> Form {
        self.form
    }

    /// Returns the ids before an image's bytes, possibly none.
    pub fn prompt(&self) -> Vec<u32> {
        self.start.into_iter().collect()
    }

    /// Returns the special ids that end an image: the id after it, and padding.
    pub fn ends(&self) -> Vec<u32> {
        let pad = Some(self.pad).filter(|pad| *pad >= SPECIAL && Some(*pad) != self.end);
        self.end.into_iter().chain(pad).collect()
    }

    /// Returns whether a sample marks the end of its image.
    pub(super) fn has_end(&self) -> bool {
        self.end.is_some() || self.form.bytes().is_some()
    }

    pub(super) fn sample_len(&self) -> usize {
        self.sample_len
    }

    /// Returns the problem of an image with this many bytes if it is too long.
    pub(super) fn misfit(&self, bytes: usize) -> Option<String> {
        let around = usize::from(self.start.is_some()) + usize::from(self.end.is_some());
        let advice = match self.form {
            Form::Pixels { .. } => "make the images smaller (resize_to_w and resize_to_h)",
            Form::Jpeg => "make the files smaller (a lower quality, fewer pixels), or remove large files",
        };
        (bytes + around > self.sample_len).then(|| {
            format!(
                "the sample has {} ids ({bytes} bytes of the image, {around} special ids), but input_seq_len is {}; \
                 raise it or {advice}",
                bytes + around,
                self.sample_len
            )
        })
    }

    /// Returns the sample of an image, which must fit.
    pub(super) fn sample(&self, bytes: &[u8]) -> Sample {
        let mut ids = Vec::with_capacity(self.sample_len);
        ids.extend(self.start);
        ids.extend(bytes.iter().copied().map(u32::from));
        ids.extend(self.end);
        let mut weights = vec![1.0; ids.len()];
        weights.resize(self.sample_len, 0.0);
        ids.resize(self.sample_len, self.pad);
        Sample {
            ids,
            loss_weights: Some(weights),
            ..Sample::default()
        }
    }
}
