"""Keys and signatures: TUF metadata, orders, the certificate authority."""
