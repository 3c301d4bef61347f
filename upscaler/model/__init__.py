"""The one shared model package: networks, weights, devices, tiles and the upscaler."""
