"""visavis.engine: photo and audio in, frames out."""
