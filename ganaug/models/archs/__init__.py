"""The networks, one module for each architecture, found by name: ``arch: modern`` is `archs/modern.py`.

Such a module has two classes, `Generator` and `Discriminator`, whose keyword arguments are `size`, `channels`,
`classes` and any of the network settings of `ganaug.config.FitConfig`. The class enters both through an `nn.Embedding`;
a logit comes from its own image alone; in evaluation mode, so does an image from its own latent. A generator that is a
`ganaug.models.StyleGenerator` gets truncation and mixing of its styles.
"""
