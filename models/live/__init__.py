"""The weights that ship: windows composed from separate corpora (`composed`, `faceplay`, `material`), training on them (`training`,
`voice`), what the trained weights do on held-out data (`evaluation`) and their cards (`card`)."""
