"""From a released adapter to copies elsewhere: one manifest, one scan, several ways out.

`subject` gathers what is known of an adapter, `bundle` makes a folder of it and scans it, `targets`
carry that folder to where it shall go, `manifest` checks any copy of it.
"""
