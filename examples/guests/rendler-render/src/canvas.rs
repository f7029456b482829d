//! A picture in memory that text and lines can be drawn on.

use std::convert::Infallible;

use embedded_graphics::pixelcolor::Rgb888;
use embedded_graphics::prelude::*;

pub const WIDTH: u32 = 360;
pub const HEIGHT: u32 = 270;

/// Three bytes a pixel, row by row.
pub struct Canvas {
    pixels: Vec<u8>,
}

impl Canvas {
    pub fn new(background: Rgb888) -> Self {
        let color = [background.r(), background.g(), background.b()];
        Self {
            pixels: color.repeat((WIDTH * HEIGHT) as usize),
        }
    }

    pub fn into_png(self) -> Result<Vec<u8>, png::EncodingError> {
        let mut bytes = Vec::new();
        let mut encoder = png::Encoder::new(&mut bytes, WIDTH, HEIGHT);
        encoder.set_color(png::ColorType::Rgb);
        encoder.set_depth(png::BitDepth::Eight);
        let mut writer = encoder.write_header()?;
        writer.write_image_data(&self.pixels)?;
        writer.finish()?;
        Ok(bytes)
    }
}

impl OriginDimensions for Canvas {
    fn size(&self) -> Size {
        Size::new(WIDTH, HEIGHT)
    }
}

impl DrawTarget for Canvas {
    type Color = Rgb888;
    type Error = Infallible;

    fn draw_iter<I>(&mut self, pixels: I) -> Result<(), Infallible>
    where
        I: IntoIterator<Item = Pixel<Rgb888>>,
    {
        let visible = self.bounding_box();
        for Pixel(point, color) in pixels {
            if visible.contains(point) {
                let at = (point.y as usize * WIDTH as usize + point.x as usize) * 3;
                self.pixels[at..at + 3].copy_from_slice(&[color.r(), color.g(), color.b()]);
            }
        }
        Ok(())
    }
}
