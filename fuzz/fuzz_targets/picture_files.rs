//! A PNG or JPEG file: its pixels, taken apart into channels and put together again.
#![no_main]

use mblm_vision::image::Image;

/// Values of a picture that is small enough to be copied.
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
