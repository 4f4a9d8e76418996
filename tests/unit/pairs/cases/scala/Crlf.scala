object Dos {
  /** Ends its lines
    * with CR LF.
    */
  def ends(): Int = {
    1
  }
}
