//! Figures as SVG, written by hand, and as PNG by resvg with a font of its own: the same on every machine.

mod bars;
mod lines;
mod panels;
mod svg;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use resvg::tiny_skia::{Pixmap, Transform};
use resvg::usvg::{Options, Tree, fontdb};

use crate::error::BenchError;

pub(crate) use bars::{Bar, BarFigure, BarPanel, Segment};
pub(crate) use lines::{LineFigure, LinePanel, Series};

/// Pixels of a PNG for each unit of the SVG: 192 dots an inch.
const SCALE: f32 = 2.0;

/// Writes `NAME.svg` and `NAME.png` into `folder`.
pub(crate) fn save(folder: &Path, name: &str, svg: &str) -> Result<Vec<PathBuf>, BenchError> {
    let (vector, raster) = (folder.join(format!("{name}.svg")), folder.join(format!("{name}.png")));
    fs::write(&vector, svg).map_err(BenchError::io("writing", &vector))?;
    let failed = |reason: String| BenchError::Plot { path: raster.clone(), reason };
    let png = render(svg).map_err(failed)?;
    fs::write(&raster, png).map_err(BenchError::io("writing", &raster))?;
    Ok(vec![vector, raster])
}

fn render(svg: &str) -> Result<Vec<u8>, String> {
    let mut fonts = fontdb::Database::new();
    fonts.load_font_data(dejavu::sans::regular().to_vec());
    fonts.load_font_data(dejavu::sans::bold().to_vec());
    fonts.set_sans_serif_family("DejaVu Sans");
    let options =
        Options { fontdb: Arc::new(fonts), font_family: "DejaVu Sans".to_owned(), ..Options::default() };
    let tree = Tree::from_str(svg, &options).map_err(|error| error.to_string())?;
    let size = tree.size().to_int_size().scale_by(SCALE).ok_or("it has no size")?;
    let mut pixels = Pixmap::new(size.width(), size.height()).ok_or("it is too large")?;
    resvg::render(&tree, Transform::from_scale(SCALE, SCALE), &mut pixels.as_mut());
    pixels.encode_png().map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_drawn() {
        let svg = |text: &str| {
            format!(
                "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"80\" height=\"20\"><text x=\"2\" y=\"15\" \
                 font-family=\"sans-serif\" font-size=\"14\">{text}</text></svg>"
            )
        };
        let (empty, full) = (render(&svg("")).unwrap(), render(&svg("warm")).unwrap());
        assert_eq!(full.get(1..4), Some(&b"PNG"[..]));
        assert!(full.len() > empty.len(), "a font is missing");
    }
}
