"""Every word on the wire: manifest, messages, errors, identity, certificates, archives, log frames."""
