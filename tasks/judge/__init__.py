"""The judge of content: attributes named in captions, read off pictures."""
