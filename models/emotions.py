"""The seven emotions, in the one order used by every label, logit and probability vector of the project."""

EMOTIONS = ("neutral", "happy", "sad", "angry", "fearful", "disgusted", "surprised")

MODALITIES = ("text", "voice", "face")
"""Order of the modality weights. The streams that feed them are `words`, `voice` and `face`."""

STREAM_OF = {"text": "words", "voice": "voice", "face": "face"}
MODALITY_OF = {stream: modality for modality, stream in STREAM_OF.items()}
