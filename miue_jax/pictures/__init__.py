"""Reads, changes, publishes and restores picture files at their own resolution.

    found = survey.survey(photos, exclude=[out])  # pictures, classes, what is left out
    picture = decode.read(root / name)                # stored pixels, profile, metadata
    small = decode.squashed(picture, size)            # uint8 [size, size, 3]: what networks see
    delta = carry.shaped(delta, carry.contrast_weights(picture, size, floor=0.5))
    with Key.create(path, settings) as secret:
      publish.publish(root, found.pictures[i], delta, out, secret)
      outcome = restore.restore(out, destination, secret)

This package uses neither networks nor JAX: its callers pass a perturbation int8 `[s, s, 3]` in
255ths.
"""
