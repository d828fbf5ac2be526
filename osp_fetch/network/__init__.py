"""HTTP/1.1 transport: sends one GET and returns its checked reply, or raises one typed error.

The package follows redirects, checks the head and the range of a reply, recognizes error pages, and reads
bodies under its own timeouts. It may import `model`, `concurrency` and, to sign requests, `s3`. It is the
only package that sends requests for files through aiohttp; no aiohttp exception and no inclusive byte range
leaves it. Start with `transport.HttpTransport.send`. `head`, `refusals` and `body` are the steps after it;
`connection` and `receiver` are the fast paths around aiohttp's parser, and `fallback` is the path through it.
"""
