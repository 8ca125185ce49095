"""Login by OpenID Connect: what the server asks of a provider, and what it believes of the answer.

Order of a login: `sign_on` sends the browser away and takes it back, `provider` exchanges the code,
`id_tokens` decides whether the answer may be believed, `roles` what the person may do, `people`
which user that is. `handover` gives a browser's login to a command line.
"""
