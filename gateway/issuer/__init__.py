"""The process that alone holds the keys of the client, worker and master CAs: it certifies what it is ordered to."""
