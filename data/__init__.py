"""Documents to tokens on disk, to a deterministic order of samples, to batches.

`prepare.prepare` turns a `corpus.CorpusConfig` and a `tokenizer.TokenizerConfig` into token
stores, `store.TokenStore` opens one in constant time, and `loader.Loader` computes any rank's
batch from the step alone. See docs/data.md.
"""
