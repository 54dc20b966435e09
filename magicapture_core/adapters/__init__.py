"""What is learned: the embeddings of two tokens, and LoRA or weights of the UNet itself.

`files` names an adapter's files, `embeddings` reads and writes theirs. `trained` holds what phase 2 trains (`lora`,
`full_weights`). `attach` puts a saved adapter into a pipeline, `exporting` writes it for other programs.
"""
