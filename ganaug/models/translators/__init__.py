"""The networks that translate images, one module for each, found by name: ``arch: resnet`` is `translators/resnet.py`.

Such a module has two classes, `Generator` and `Discriminator`. Neither normalizes over space, so that an image may be
translated in tiles.
"""
