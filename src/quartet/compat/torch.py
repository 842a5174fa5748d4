"""torch: private names."""

from torch import nn

# The base of batch and instance normalization in every dimension has no public name.
BatchOrInstanceNorm = nn.modules.batchnorm._NormBase
