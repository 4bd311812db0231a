//! Fuzzes a PNG or JPEG file: its pixels are split into channels and joined again.
#![no_main]

use mblm_vision::image::Image;

/// The maximum number of values of an image that is copied.
const SMALL: usize = 1 << 20;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    mblm_fuzz::limited(data.len(), || {
        let Ok(picture) = Image::decode(data) else {
            return;
        };
        assert_eq!(picture.rgb.len(), 3 * picture.width * picture.height);
        if picture.rgb.len() <= SMALL {
            let again = Image::from_channels(picture.width, picture.height, &picture.channels());
            assert_eq!(again, Ok(picture));
        }
    });
});
