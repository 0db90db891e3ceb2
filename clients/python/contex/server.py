"""Values of `contex.v1.ServerService`: what a server is, and what it takes."""

from ._values.server import *
