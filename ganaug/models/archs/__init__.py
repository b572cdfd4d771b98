"""The networks, one module for each architecture, found by name: ``arch: modern`` is `archs/modern.py`.

Such a module has two classes, `Generator` and `Discriminator`, whose keyword arguments are `size`, `channels`,
`classes` and any of the network settings of `ganaug.config.FitConfig`.
"""
