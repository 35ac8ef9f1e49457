"""The artefact: a poison, its export, poisons made elsewhere, image quality."""
