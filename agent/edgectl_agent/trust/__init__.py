"""What the device believes: signed metadata and signed orders.

`verifier` decides, whatever the files come from. `process` is the supervisor's side: it runs the
verifier in a process of its own (``python -m edgectl_agent.trust``) and fetches what that asks for;
`frames` is what goes between the two, `confinement` what the process may still touch.
"""
